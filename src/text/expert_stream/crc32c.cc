#include "text/expert_stream/crc32c.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace weft::text {
namespace {

std::array<uint32_t, 256> make_table() {
  constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? kPolynomial : 0);
    table[i] = value;
  }
  return table;
}

uint32_t portable(const uint8_t* data, size_t size) {
  static const std::array<uint32_t, 256> table = make_table();
  uint32_t crc = ~0U;
  for (size_t i = 0; i < size; ++i) crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
  return ~crc;
}

#if defined(__x86_64__)
bool has_instruction() {
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
}

uint64_t load(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

__attribute__((target("sse4.2"))) HalfChecksum quarters(const uint8_t* data, size_t quarter) {
  uint64_t a = ~0U, b = ~0U, c = ~0U, d = ~0U;
  for (size_t i = 0; i < quarter; i += 8) {
    a = _mm_crc32_u64(a, load(data + i));
    b = _mm_crc32_u64(b, load(data + quarter + i));
    c = _mm_crc32_u64(c, load(data + 2 * quarter + i));
    d = _mm_crc32_u64(d, load(data + 3 * quarter + i));
  }
  return {~static_cast<uint32_t>(a), ~static_cast<uint32_t>(b), ~static_cast<uint32_t>(c),
          ~static_cast<uint32_t>(d)};
}
#endif

}  // namespace

uint32_t crc32c(const uint8_t* data, size_t size) { return portable(data, size); }

HalfChecksum half_checksum(const uint8_t* data, size_t size, size_t half) {
  data += size / 2 * half;
  const size_t quarter = size / 8;
#if defined(__x86_64__)
  if (has_instruction()) return quarters(data, quarter);
#endif
  HalfChecksum out{};
  for (size_t i = 0; i < 4; ++i) out[i] = portable(data + i * quarter, quarter);
  return out;
}

RecordChecksum record_checksum(const uint8_t* data, size_t size) {
  RecordChecksum out{};
  for (const size_t half : {0, 1}) {
    const HalfChecksum sums = half_checksum(data, size, half);
    std::copy(sums.begin(), sums.end(), out.begin() + 4 * static_cast<ptrdiff_t>(half));
  }
  return out;
}

}  // namespace weft::text
