// `weft bench kernels`: what the kernels reach of this machine's limits. Small batches are what
// serving, routing and verification live on, so a product's cost is shown from 1 to 64 rows beside
// its cost with one, on matrices that no cache holds.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>

#include "base/buffer.h"
#include "base/error.h"
#include "base/random.h"
#include "bench/bench.h"
#include "bench/limits.h"
#include "bench/machine.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace weft::bench {
namespace {

using kernels::ActivationKind;
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

struct Limits {
  double read = 0;                        // bytes/s
  std::optional<double> int8, bf16, f32;  // operations/s

  double peak_of(ActivationKind kind) const {
    if (kind == ActivationKind::kInt8 && int8) return *int8;
    if (kind == ActivationKind::kBF16 && bf16) return *bf16;
    return *f32;
  }
};

// Uniform in [-1, 1): enough for products, whose time does not depend on the values.
std::vector<float> random_values(size_t n, uint64_t seed) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i)
    values[i] = static_cast<float>(2 * uniform(seed, i >> 32, static_cast<uint32_t>(i)) - 1);
  return values;
}

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
    return std::chrono::duration<double>(Clock::now() - start).count();
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

Table product_table(size_t threads, const Limits& limits) {
  Table table;
  table.name =
      fmt::format("products, {} thread{}: memory reads {:.1f} GB/s; cost of n rows in units of one",
                  threads, threads == 1 ? "" : "s", limits.read / 1e9);
  table.columns = {"weights", "1 row GB/s", "of read"};
  for (const size_t rows : kRowCounts)
    if (rows > 1) table.columns.push_back(fmt::format("{} rows", rows));
  table.columns.insert(table.columns.end(), {"64 rows GOP/s", "512 rows GOP/s", "of peak"});
  return table;
}

void add_product_row(Table& table, nlohmann::ordered_json& summary,
                     const std::vector<std::string>& suffixes, const Linear& large,
                     const Linear& square, const std::vector<Spread>& spreads,
                     const Limits& limits) {
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

Report run_kernels(const BenchOptions& options) {
  const Machine machine = read_machine();
  ThreadPool pool(*std::max_element(options.threads.begin(), options.threads.end()));
  const int rounds = options.quick ? 3 : 9;
  const size_t large_bytes =
      std::clamp(4 * machine.last_level_cache_bytes(), size_t{128} << 20, size_t{512} << 20);

  Report report;
  report.bench = "kernels";
  report.notes.push_back(fmt::format(
      "Matrices of {} MiB (cache: {} MiB), 512 rows with {}x{}; medians of {} rounds. In the "
      "summary a\n"
      "plain name is the last thread count's, _tN that of N threads.",
      large_bytes >> 20, machine.last_level_cache_bytes() >> 20, kSquare, kFeatures, rounds));

  std::vector<Limits> limits;
  {
    const ReadBandwidth memory(machine.last_level_cache_bytes(), machine.available_bytes,
                               pool.cores());
    for (const size_t threads : options.threads) {
      const CoreSet cores = pool.subset(0, threads);
      limits.push_back({.read = memory.measure(cores, 5),
                        .int8 = peak_rate(Product::kInt8, cores, 3),
                        .bf16 = peak_rate(Product::kBF16, cores, 3),
                        .f32 = peak_rate(Product::kF32, cores, 3)});
      report.tables.push_back(product_table(threads, limits.back()));
    }
  }
  const std::span<const DType> types = options.quick ? std::span<const DType>(kQuickTypes) : kTypes;
  for (const DType type : types) {
    const size_t rows = large_bytes / bytes_of(type, kFeatures) / 16 * 16;
    const Linear large = random_matrix(type, rows, pool.cores());
    const Linear square = random_matrix(type, kSquare, pool.cores());
    for (size_t i = 0; i < options.threads.size(); ++i) {
      const CoreSet cores = pool.subset(0, options.threads[i]);
      const std::vector<Spread> spreads = measure(large, square, cores, rounds, options.stop);
      std::vector<std::string> suffixes = {fmt::format("_t{}", options.threads[i])};
      if (i + 1 == options.threads.size()) suffixes.emplace_back("");
      add_product_row(report.tables[i], report.summary, suffixes, large, square, spreads,
                      limits[i]);
    }
  }
  return report;
}

}  // namespace weft::bench
