// The parts of `weft bench kernels`: one table each.
#pragma once

#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "bench/bench.h"
#include "bench/report.h"
#include "kernels/linear.h"

namespace weft::bench {

// The machine's measured ceilings for one number of threads.
struct KernelLimits {
  size_t threads = 1;
  CoreSet cores;
  double read = 0;                        // bytes/s
  std::optional<double> int8, bf16, f32;  // operations/s

  double peak_of(kernels::ActivationKind kind) const;
};

// Uniform in [-1, 1): enough for timing, which does not depend on the values.
std::vector<float> random_values(size_t n, uint64_t seed);

// One table for each of `limits`, and the summary's numbers.
void bench_products(const BenchOptions& options, size_t large_bytes, const CoreSet& all,
                    std::span<const KernelLimits> limits, Report& report);
void bench_attention(const BenchOptions& options, std::span<const KernelLimits> limits,
                     Report& report);
void bench_row_operations(const BenchOptions& options, Report& report);

}  // namespace weft::bench
