// Products of 1 to 512 rows with a matrix of each weight format. Small batches are what serving,
// routing and verification live on, so the cost of 1 to 64 rows stands beside that of one, on
// matrices that no cache holds.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "base/buffer.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/seconds.h"
#include "bench/kernel_tables.h"
#include "kernels/quantize.h"

namespace weft::bench {
namespace {

using kernels::Activations;
using kernels::Linear;
using Clock = std::chrono::steady_clock;

constexpr size_t kFeatures = 4096;    // of a row; a multiple of every block
constexpr size_t kDistinctRows = 64;  // the others repeat them: the memory traffic is the same
constexpr size_t kSquare =
    4096;  // outputs of the matrix for kManyRows, which compute, not memory, bounds
constexpr size_t kManyRows = 512;  // a prefill's chunk
constexpr size_t kRowCounts[] = {1, 2, 4, 8, 16, 32, 64};

constexpr DType kTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                            DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                            DType::kBF16, DType::kF16,  DType::kF32};
constexpr DType kQuickTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K,
                                 DType::kQ6_K, DType::kBF16, DType::kF16};

Linear random_matrix(DType type, size_t rows, const CoreSet& cores) {
  const std::vector<float> values = random_values(kDistinctRows * kFeatures, 1);
  const size_t row_bytes = bytes_of(type, kFeatures);
  Buffer raw(rows * row_bytes, "a bench's weights");
  kernels::quantize(type, values.data(), raw.data(), values.size());
  const size_t distinct_bytes = kDistinctRows * row_bytes;
  for (size_t at = distinct_bytes; at < rows * row_bytes; at += distinct_bytes)
    std::memcpy(raw.data() + at, raw.data(), std::min(distinct_bytes, rows * row_bytes - at));
  return Linear::pack({type, {rows, kFeatures}, raw.data()}, cores);
}

// A product ready to be run again and again.
class RepeatedProduct {
 public:
  RepeatedProduct(const Linear& weight, size_t num_rows, const CoreSet& cores)
      : weight_(weight),
        num_rows_(num_rows),
        cores_(cores),
        x_(random_values(num_rows * kFeatures, 2)),
        out_(num_rows * weight.out_features() * sizeof(float), "a bench's products") {}

  // Seconds of one multiplication, the conversion of x included.
  double run() {
    const auto start = Clock::now();
    activations_.set(x_.data(), num_rows_, kFeatures, kFeatures);
    const kernels::LinearCall call{
        .weight = &weight_, .out = out_.as<float>(), .out_stride = weight_.out_features()};
    kernels::multiply({&call, 1}, activations_, cores_);
    return seconds_since(start);
  }

  const float* row(size_t r) const { return out_.as<float>() + r * weight_.out_features(); }
  const float* x() const { return x_.data(); }

 private:
  const Linear& weight_;
  size_t num_rows_;
  CoreSet cores_;
  std::vector<float> x_;
  Buffer out_;
  Activations activations_;
};

// The benched product is the right one: some outputs against a float64 sum. Rounding the
// activations to 8 bits moves a value by at most 1/254 of the largest of its 32, hence a term by
// |w| / 254, and the terms' errors are independent: 8 sigma of their sum is allowed (bf16 and f16
// stay far below).
void check(const Linear& weight, const RepeatedProduct& product) {
  std::vector<float> w(kFeatures);
  for (size_t output = 0; output < weight.out_features(); output += weight.out_features() / 7) {
    weight.dequantize_row(output, w.data());
    double exact = 0, squares = 0;
    for (size_t i = 0; i < kFeatures; ++i) {
      exact += static_cast<double>(w[i]) * product.x()[i];
      squares += static_cast<double>(w[i]) * w[i];
    }
    const double allowed = 8 * std::sqrt(squares) / 254 + 1e-6;
    WEFT_ASSERT(std::abs(product.row(0)[output] - exact) < allowed);
  }
}

// Median seconds of each row count, then of kManyRows with the square matrix.
std::vector<Spread> measure(const Linear& large, const Linear& square, const CoreSet& cores,
                            int rounds, StopToken stop) {
  std::vector<std::unique_ptr<RepeatedProduct>> products;
  for (const size_t rows : kRowCounts)
    products.push_back(std::make_unique<RepeatedProduct>(large, rows, cores));
  products.push_back(std::make_unique<RepeatedProduct>(square, kManyRows, cores));
  std::vector<std::function<double()>> contestants;
  for (const auto& product : products)
    contestants.emplace_back([p = product.get()] { return p->run(); });
  const std::vector<std::vector<double>> seconds = alternate(rounds, contestants, stop);

  check(large, *products.front());
  // Batch invariance, on this very matrix: the row alone and among 64 has the same bits.
  WEFT_ASSERT(std::equal(products.front()->row(0), products.front()->row(0) + large.out_features(),
                         products[std::size(kRowCounts) - 1]->row(0)));
  std::vector<Spread> spreads;
  for (const auto& values : seconds) spreads.push_back(spread_of(values));
  return spreads;
}

double operations(const Linear& weight, size_t rows) {
  return 2.0 * static_cast<double>(weight.out_features()) *
         static_cast<double>(weight.in_features()) * static_cast<double>(rows);
}

Table product_table(const KernelLimits& limits) {
  Table table;
  table.name =
      fmt::format("products, {} thread{}: memory reads {:.1f} GB/s; cost of n rows in units of one",
                  limits.threads, limits.threads == 1 ? "" : "s", limits.read / 1e9);
  table.columns = {"weights", "1 row GB/s", "of read"};
  for (const size_t rows : kRowCounts)
    if (rows > 1) table.columns.push_back(fmt::format("{} rows", rows));
  table.columns.insert(table.columns.end(), {"64 rows GOP/s", "512 rows GOP/s", "of peak"});
  return table;
}

void add_product_row(Table& table, nlohmann::ordered_json& summary,
                     const std::vector<std::string>& suffixes, const Linear& large,
                     const Linear& square, const std::vector<Spread>& spreads,
                     const KernelLimits& limits) {
  const std::string type = name(large.dtype());
  const double one = spreads[0].median;
  const double read = static_cast<double>(large.packed_bytes()) / one;
  const double many = operations(square, kManyRows) / spreads.back().median;
  const double peak_fraction = many / limits.peak_of(large.activation_kind());
  std::vector<Cell> row = {cell(type), cell(read / 1e9, 1), percent(read / limits.read)};
  for (size_t i = 1; i < std::size(kRowCounts); ++i)
    row.push_back(cell(spreads[i].median / one, 2));
  row.push_back(cell(operations(large, 64) / spreads[std::size(kRowCounts) - 1].median / 1e9, 0));
  row.push_back(cell(many / 1e9, 0));
  row.push_back(percent(peak_fraction));
  table.rows.push_back(std::move(row));
  for (const std::string& suffix : suffixes) {
    summary["rows4_cost_" + type + suffix] = spreads[2].median / one;
    summary["rows16_cost_" + type + suffix] = spreads[4].median / one;
    summary["bandwidth_fraction_" + type + suffix] = read / limits.read;
    summary["peak_fraction_512_" + type + suffix] = peak_fraction;
  }
}

}  // namespace

void bench_products(const BenchOptions& options, size_t large_bytes, const CoreSet& all,
                    std::span<const KernelLimits> limits, Report& report) {
  std::vector<Table> tables;
  for (const KernelLimits& limit : limits) tables.push_back(product_table(limit));
  const int rounds = options.quick ? 3 : 9;
  const std::span<const DType> types = options.quick ? std::span<const DType>(kQuickTypes) : kTypes;
  Progress progress("Measuring products", types.size() * limits.size(), "matrices");
  for (const DType type : types) {
    const size_t rows = large_bytes / bytes_of(type, kFeatures) / 16 * 16;
    const Linear large = random_matrix(type, rows, all);
    const Linear square = random_matrix(type, kSquare, all);
    for (size_t i = 0; i < limits.size(); ++i) {
      const std::vector<Spread> spreads =
          measure(large, square, limits[i].cores, rounds, options.stop);
      std::vector<std::string> suffixes = {fmt::format("_t{}", limits[i].threads)};
      if (i + 1 == limits.size()) suffixes.emplace_back("");
      add_product_row(tables[i], report.summary, suffixes, large, square, spreads, limits[i]);
      progress.advance(1);
    }
  }
  for (Table& table : tables) report.tables.push_back(std::move(table));
}

}  // namespace weft::bench
