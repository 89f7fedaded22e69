// The row operations between the products, one core, data in its cache.
#include <chrono>
#include <cmath>
#include <functional>

#include "bench/kernel_tables.h"
#include "kernels/elementwise.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kWidth = 4096;
constexpr int kCalls = 256;  // timed together: one call is about a microsecond

double nanoseconds_per_call(const std::function<void()>& call) {
  const auto start = Clock::now();
  for (int i = 0; i < kCalls; ++i) call();
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count() / kCalls;
}

kernels::RopeTable rope_table(size_t head_dim) {
  kernels::RopeTable table;
  for (size_t i = 0; i < head_dim / 2; ++i)
    table.inverse_frequency.push_back(
        std::pow(1e4f, -static_cast<float>(2 * i) / static_cast<float>(head_dim)));
  return table;
}

}  // namespace

void bench_row_operations(const BenchOptions& options, Report& report) {
  constexpr size_t kHeadDim = 64;
  const std::vector<float> x = random_values(kWidth, 5), weight = random_values(kWidth, 6);
  const kernels::RopeTable table = rope_table(kHeadDim);
  std::vector<float> out(kWidth), heads = x, scores = x, angles(kHeadDim);
  kernels::rope_angles(table, 1000, angles.data());
  struct Operation {
    const char* name;
    std::function<void()> run;
  };
  const Operation operations[] = {
      {"rms_norm", [&] { kernels::rms_norm(x.data(), weight.data(), 1e-5f, kWidth, out.data()); }},
      {"silu_multiply",
       [&] { kernels::silu_multiply(x.data(), weight.data(), kWidth, out.data()); }},
      {"softmax", [&] { kernels::softmax(scores.data(), kWidth); }},
      {"rope",
       [&] { kernels::rope(table, angles.data(), kWidth / kHeadDim, kHeadDim, heads.data()); }},
  };
  std::vector<std::function<double()>> contestants;
  for (const Operation& operation : operations)
    contestants.emplace_back([&operation] { return nanoseconds_per_call(operation.run); });
  const auto times = alternate(options.quick ? 5 : 25, contestants, options.stop);

  Table rows;
  rows.name = "row operations, 4096 values, one core";
  rows.columns = {"operation", "ns", "ns / value"};
  for (size_t i = 0; i < std::size(operations); ++i) {
    const Spread spread = spread_of(times[i]);
    rows.rows.push_back(
        {cell(operations[i].name), cell(spread, 0), cell(spread.median / kWidth, 3)});
  }
  report.tables.push_back(std::move(rows));
}

}  // namespace weft::bench
