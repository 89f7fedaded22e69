#include "bench/limits.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/seconds.h"
#include "kernels/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::Isa;

// Results go here so that no compiler drops the work that made them.
std::atomic<uint64_t> sink;

template <typename Vector>
uint64_t first_word(const Vector& vector) {
  uint64_t word;
  std::memcpy(&word, &vector, sizeof word);
  return word;
}

constexpr size_t kPieceBytes = size_t{4} << 20;  // of a bandwidth pass: a core's unit of work
constexpr size_t kStreams = 4;  // one core keeps more requests in flight with several

// Each reader touches every one of `bytes`, a multiple of kStreams * 128, and gives some sum of
// them.
uint64_t read_portable(const uint8_t* data, size_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  uint64_t sum[8] = {};
  for (size_t i = 0; i < bytes / 8; i += 8)
    for (size_t lane = 0; lane < 8; ++lane) sum[lane] += words[i + lane];
  uint64_t total = 0;
  for (const uint64_t s : sum) total += s;
  return total;
}

// Accumulators of a peak measurement: enough to cover latency times issue width of today's cores.
constexpr int kChains = 12;
constexpr int kSteps = 4096;  // multiply-adds of each chain in one call

double f32_portable() {
  float chain[kChains * 4];
  for (int i = 0; i < kChains * 4; ++i) chain[i] = 1e-3f * static_cast<float>(i);
  for (int step = 0; step < kSteps; ++step)
    for (float& c : chain) c = c * 0.999f + 1e-3f;
  float sum = 0;
  for (const float c : chain) sum += c;
  sink.fetch_add(static_cast<uint64_t>(sum), std::memory_order_relaxed);
  return 2.0 * kSteps * kChains * 4;
}

#if defined(__x86_64__)
#define WEFT_AVX2 __attribute__((target("avx2,fma")))
#define WEFT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define WEFT_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

WEFT_AVX512 uint64_t read_avx512(const uint8_t* data, size_t bytes) {
  const size_t stream = bytes / kStreams;
  __m512i sum[kStreams * 2];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (size_t i = 0; i < stream; i += 128) {
    for (size_t s = 0; s < kStreams; ++s) {
      const uint8_t* at = data + s * stream + i;
      sum[2 * s] = _mm512_add_epi64(sum[2 * s], _mm512_load_si512(at));
      sum[2 * s + 1] = _mm512_add_epi64(sum[2 * s + 1], _mm512_load_si512(at + 64));
    }
  }
  __m512i total = _mm512_setzero_si512();
  for (const __m512i& s : sum) total = _mm512_add_epi64(total, s);
  return first_word(total);
}

WEFT_AVX2 uint64_t read_avx2(const uint8_t* data, size_t bytes) {
  const size_t stream = bytes / kStreams;
  __m256i sum[kStreams * 2];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (size_t i = 0; i < stream; i += 64) {
    for (size_t s = 0; s < kStreams; ++s) {
      const auto* at = reinterpret_cast<const __m256i*>(data + s * stream + i);
      sum[2 * s] = _mm256_add_epi64(sum[2 * s], _mm256_load_si256(at));
      sum[2 * s + 1] = _mm256_add_epi64(sum[2 * s + 1], _mm256_load_si256(at + 1));
    }
  }
  __m256i total = _mm256_setzero_si256();
  for (const __m256i& s : sum) total = _mm256_add_epi64(total, s);
  return first_word(total);
}

WEFT_AVX512 double int8_avx512() {
  __m512i chain[kChains];
  for (__m512i& c : chain) c = _mm512_setzero_si512();
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int step = 0; step < kSteps; ++step)
    for (__m512i& c : chain) c = _mm512_dpbusd_epi32(c, a, b);
  __m512i sum = _mm512_setzero_si512();
  for (const __m512i& c : chain) sum = _mm512_add_epi32(sum, c);
  sink.fetch_add(first_word(sum), std::memory_order_relaxed);
  return 2.0 * 64 * kSteps * kChains;
}

WEFT_AVX2 double int8_avx2() {
  __m256i chain[kChains];
  for (__m256i& c : chain) c = _mm256_setzero_si256();
  const __m256i ones = _mm256_set1_epi16(1), a = _mm256_set1_epi8(3);
  __m256i b = _mm256_set1_epi8(5);
  for (int step = 0; step < kSteps; ++step) {
    for (__m256i& c : chain) {
      asm("" : "+x"(b));  // "b may have changed": else the products would be computed once for all
      c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  __m256i sum = _mm256_setzero_si256();
  for (const __m256i& c : chain) sum = _mm256_add_epi32(sum, c);
  sink.fetch_add(first_word(sum), std::memory_order_relaxed);
  return 2.0 * 32 * kSteps * kChains;
}

WEFT_AVX512_BF16 double bf16_avx512() {
  __m512 chain[kChains];
  for (__m512& c : chain) c = _mm512_setzero_ps();
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3c00);
  for (int step = 0; step < kSteps; ++step)
    for (__m512& c : chain) c = _mm512_dpbf16_ps(c, a, b);
  __m512 sum = _mm512_setzero_ps();
  for (const __m512& c : chain) sum = _mm512_add_ps(sum, c);
  sink.fetch_add(first_word(sum), std::memory_order_relaxed);
  return 2.0 * 32 * kSteps * kChains;
}

WEFT_AVX512 double f32_avx512() {
  __m512 chain[kChains];
  for (__m512& c : chain) c = _mm512_setzero_ps();
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (int step = 0; step < kSteps; ++step)
    for (__m512& c : chain) c = _mm512_fmadd_ps(c, a, b);
  __m512 sum = _mm512_setzero_ps();
  for (const __m512& c : chain) sum = _mm512_add_ps(sum, c);
  sink.fetch_add(first_word(sum), std::memory_order_relaxed);
  return 2.0 * 16 * kSteps * kChains;
}

WEFT_AVX2 double f32_avx2() {
  __m256 chain[kChains];
  for (__m256& c : chain) c = _mm256_setzero_ps();
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (int step = 0; step < kSteps; ++step)
    for (__m256& c : chain) c = _mm256_fmadd_ps(c, a, b);
  __m256 sum = _mm256_setzero_ps();
  for (const __m256& c : chain) sum = _mm256_add_ps(sum, c);
  sink.fetch_add(first_word(sum), std::memory_order_relaxed);
  return 2.0 * 8 * kSteps * kChains;
}
#endif

using Read = uint64_t (*)(const uint8_t* data, size_t bytes);
using Burn = double (*)();  // gives the operations it did

Read widest_read() {
#if defined(__x86_64__)
  if (kernels::active_isa() == Isa::kAvx512) return read_avx512;
  if (kernels::active_isa() == Isa::kAvx2) return read_avx2;
#endif
  return read_portable;
}

Burn fastest(Product product) {
#if defined(__x86_64__)
  const Isa isa = kernels::active_isa();
  switch (product) {
    case Product::kInt8:
      return isa == Isa::kAvx512 ? int8_avx512 : isa == Isa::kAvx2 ? int8_avx2 : nullptr;
    case Product::kBF16:
      return kernels::has_native_bf16() ? bf16_avx512 : nullptr;
    case Product::kF32:
      return isa == Isa::kAvx512 ? f32_avx512 : isa == Isa::kAvx2 ? f32_avx2 : f32_portable;
  }
#endif
  return product == Product::kF32 ? f32_portable : nullptr;
}

}  // namespace

ReadBandwidth::ReadBandwidth(size_t last_level_cache_bytes, size_t available_bytes,
                             const CoreSet& cores) {
  constexpr size_t kLeast = size_t{256} << 20, kMost = size_t{2} << 30;
  bytes_ = std::clamp(8 * last_level_cache_bytes, kLeast, kMost);
  bytes_ = std::max(std::min(bytes_, available_bytes / 4), kPieceBytes) / kPieceBytes * kPieceBytes;
  buffer_ = Buffer(bytes_, "measuring the memory's bandwidth");
  // Untouched pages are all the same page of zeros, which the cache would hold.
  uint8_t* data = buffer_.data();
  cores.parallel_for(bytes_, kPieceBytes, [data](size_t begin, size_t end, size_t) {
    std::memset(data + begin, 1, end - begin);
  });
}

double ReadBandwidth::measure(const CoreSet& cores, int passes) const {
  const Read read = widest_read();
  const uint8_t* data = buffer_.data();
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = Clock::now();
    cores.parallel_for(bytes_, kPieceBytes, [read, data](size_t begin, size_t end, size_t) {
      sink.fetch_add(read(data + begin, end - begin), std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(bytes_) / seconds_since(start));
  }
  return best;
}

std::optional<double> peak_rate(Product product, const CoreSet& cores, int passes) {
  const Burn burn = fastest(product);
  if (burn == nullptr) return std::nullopt;
  constexpr size_t kCallsPerPiece =
      64;  // tens of microseconds: far above the cost of handing it out
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::vector<double> work(cores.size() * 16, 0.0);  // 16 apart: a cache line or more of its own
    const auto start = Clock::now();
    cores.parallel_for(cores.size() * 8, 1, [&](size_t begin, size_t end, size_t core) {
      for (size_t piece = begin; piece < end; ++piece)
        for (size_t call = 0; call < kCallsPerPiece; ++call) work[core * 16] += burn();
    });
    const double seconds = seconds_since(start);
    double total = 0;
    for (const double w : work) total += w;
    best = std::max(best, total / seconds);
  }
  return best;
}

double disk_read_rate(const std::filesystem::path& path, size_t limit_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    fail(errno == ENOENT ? ErrorKind::kNotFound : ErrorKind::kIo, "{}: cannot open: {}",
         path.string(), std::strerror(errno));
  }
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  std::vector<char> chunk(size_t{8} << 20);
  size_t total = 0;
  ssize_t n = 0;
  const auto start = Clock::now();
  while (total < limit_bytes && (n = ::read(fd, chunk.data(), chunk.size())) > 0)
    total += static_cast<size_t>(n);
  const double seconds = seconds_since(start);
  const int code = errno;
  ::close(fd);
  if (n < 0) fail(ErrorKind::kIo, "{}: cannot read: {}", path.string(), std::strerror(code));
  return static_cast<double>(total) / seconds;
}

}  // namespace weft::bench
