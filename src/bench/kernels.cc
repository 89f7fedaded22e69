// `weft bench kernels`: what the kernels reach of this machine's limits.
#include <fmt/format.h>

#include <algorithm>

#include "base/random.h"
#include "bench/kernel_tables.h"
#include "bench/limits.h"
#include "bench/machine.h"

namespace weft::bench {

using kernels::ActivationKind;

double KernelLimits::peak_of(ActivationKind kind) const {
  if (kind == ActivationKind::kInt8 && int8) return *int8;
  if (kind == ActivationKind::kBF16 && bf16) return *bf16;
  return *f32;
}

std::vector<float> random_values(size_t n, uint64_t seed) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i)
    values[i] = static_cast<float>(2 * uniform(seed, i >> 32, static_cast<uint32_t>(i)) - 1);
  return values;
}

Report run_kernels(const BenchOptions& options) {
  const Machine machine = read_machine();
  ThreadPool pool(*std::max_element(options.threads.begin(), options.threads.end()));
  const size_t large_bytes =
      std::clamp(4 * machine.last_level_cache_bytes(), size_t{128} << 20, size_t{512} << 20);

  Report report;
  report.bench = "kernels";
  report.notes.push_back(
      fmt::format("Products: matrices of {} MiB (last-level cache: {} MiB). Medians. In the "
                  "summary a plain name is the\n"
                  "last thread count's, _tN that of N threads.",
                  large_bytes >> 20, machine.last_level_cache_bytes() >> 20));

  std::vector<KernelLimits> limits;
  {
    const ReadBandwidth memory(machine.last_level_cache_bytes(), machine.available_bytes,
                               pool.cores());
    for (const size_t threads : options.threads) {
      const CoreSet cores = pool.subset(0, threads);
      limits.push_back({.threads = threads,
                        .cores = cores,
                        .read = memory.measure(cores, 5),
                        .int8 = peak_rate(Product::kInt8, cores, 3),
                        .bf16 = peak_rate(Product::kBF16, cores, 3),
                        .f32 = peak_rate(Product::kF32, cores, 3)});
    }
  }
  bench_products(options, large_bytes, pool.cores(), limits, report);
  bench_attention(options, limits, report);
  bench_row_operations(options, report);
  return report;
}

}  // namespace weft::bench
