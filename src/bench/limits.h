// What this machine can do at best, measured: the ceilings that benches put beside their figures.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>

#include "base/buffer.h"
#include "base/thread_pool.h"

namespace weft::bench {

// Bytes per second of reading memory that no cache holds: the best of several passes with the
// widest loads of the active instruction set. The buffer is made once and read by any number of
// cores.
class ReadBandwidth {
 public:
  // Several times the last-level cache, within a quarter of what is available.
  ReadBandwidth(size_t last_level_cache_bytes, size_t available_bytes, const CoreSet& cores);
  double measure(const CoreSet& cores, int passes) const;

 private:
  Buffer buffer_;
  size_t bytes_ = 0;
};

// Operations per second of independent multiply-adds held in registers (each counts two), all cores
// of the set at once, best of several. Nothing where the active instruction set has no such
// product.
enum class Product {
  kInt8,  // 8-bit products summed in 32 bits (VNNI, or AVX2's three instructions)
  kBF16,  // AVX512_BF16 pairs
  kF32,   // fused multiply-add
};
std::optional<double> peak_rate(Product product, const CoreSet& cores, int passes);

// Bytes per second of reading `path` from its disk: its pages are dropped from the page cache
// first, as far as the system does so. At most `limit_bytes` are read. kNotFound, kIo.
double disk_read_rate(const std::filesystem::path& path, size_t limit_bytes);

}  // namespace weft::bench
