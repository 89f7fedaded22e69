#include "kernels/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "kernels/blocks.h"
#include "kernels/quantize_k.h"

namespace weft::kernels {
namespace {

// Scales are computed before rounding, as ggml does: codes come from the exact scale, then the
// scale becomes an f16. Where the exact scale is so small that its inverse overflows, every code is
// the one of zero (the f16 scale is 0 then, and so is every value).
float inverse(float d) {
  const float id = d == 0 ? 0.0f : 1.0f / d;
  return std::isfinite(id) ? id : 0.0f;
}

uint8_t code(float scaled, float rounding, float limit) {
  return static_cast<uint8_t>(std::clamp(scaled + rounding, 0.0f, limit));
}

// The value of largest magnitude, with its sign: the first of equals.
float largest(const float* x) {
  float best = 0, magnitude = -1;
  for (size_t i = 0; i < kBlock; ++i) {
    if (std::fabs(x[i]) <= magnitude) continue;
    magnitude = std::fabs(x[i]);
    best = x[i];
  }
  return best;
}

struct Range {
  float min, max;
};

Range range(const float* x) {
  Range r{x[0], x[0]};
  for (size_t i = 1; i < kBlock; ++i) {
    r.min = std::min(r.min, x[i]);
    r.max = std::max(r.max, x[i]);
  }
  return r;
}

void pack_nibbles(const uint8_t* q, uint8_t* qs) {
  for (size_t l = 0; l < 16; ++l) qs[l] = static_cast<uint8_t>((q[l] & 15) | q[16 + l] << 4);
}

void pack_fifth_bits(const uint8_t* q, uint8_t* qh) {
  std::memset(qh, 0, 4);
  for (size_t i = 0; i < kBlock; ++i) qh[i / 8] |= static_cast<uint8_t>(q[i] >> 4 << i % 8);
}

void quantize_block(const float* x, BlockQ4_0& b) {
  const float d = largest(x) / -8, id = inverse(d);
  uint8_t q[kBlock];
  for (size_t i = 0; i < kBlock; ++i) q[i] = code(x[i] * id, 8.5f, 15);
  b.d = scale_to_half(d);
  pack_nibbles(q, b.qs);
}

void quantize_block(const float* x, BlockQ4_1& b) {
  const Range r = range(x);
  const float d = (r.max - r.min) / 15, id = inverse(d);
  uint8_t q[kBlock];
  for (size_t i = 0; i < kBlock; ++i) q[i] = code((x[i] - r.min) * id, 0.5f, 15);
  b.d = scale_to_half(d);
  b.m = scale_to_half(r.min);
  pack_nibbles(q, b.qs);
}

void quantize_block(const float* x, BlockQ5_0& b) {
  const float d = largest(x) / -16, id = inverse(d);
  uint8_t q[kBlock];
  for (size_t i = 0; i < kBlock; ++i) q[i] = code(x[i] * id, 16.5f, 31);
  b.d = scale_to_half(d);
  pack_fifth_bits(q, b.qh);
  pack_nibbles(q, b.qs);
}

void quantize_block(const float* x, BlockQ5_1& b) {
  const Range r = range(x);
  const float d = (r.max - r.min) / 31, id = inverse(d);
  uint8_t q[kBlock];
  for (size_t i = 0; i < kBlock; ++i) q[i] = code((x[i] - r.min) * id, 0.5f, 31);
  b.d = scale_to_half(d);
  b.m = scale_to_half(r.min);
  pack_fifth_bits(q, b.qh);
  pack_nibbles(q, b.qs);
}

void quantize_block(const float* x, BlockQ8_0& b) {
  const float d = std::fabs(largest(x)) / 127, id = inverse(d);
  for (size_t i = 0; i < kBlock; ++i) b.qs[i] = static_cast<int8_t>(std::round(x[i] * id));
  b.d = scale_to_half(d);
}

template <typename Block, size_t kValues>
void quantize_blocks(const float* src, void* dst, size_t n) {
  auto* blocks = static_cast<Block*>(dst);
  for (size_t i = 0; i < n / kValues; ++i) quantize_block(src + i * kValues, blocks[i]);
}

void check_finite(const float* src, size_t n) {
  bool finite = true;
  for (size_t i = 0; i < n; ++i)
    finite &= (std::bit_cast<uint32_t>(src[i]) & 0x7f800000u) != 0x7f800000u;
  if (!finite) fail(ErrorKind::kInvalidInput, "a weight is not finite (NaN or infinity)");
}

template <uint16_t (*kConvert)(float)>
void convert(const float* src, void* dst, size_t n) {
  auto* bytes = static_cast<uint8_t*>(dst);
  for (size_t i = 0; i < n; ++i) {
    const uint16_t bits = kConvert(src[i]);
    std::memcpy(bytes + i * 2, &bits, 2);
  }
}

}  // namespace

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {  // NaN: keep what fits of the payload, and stay one
    half = 0x7e00u | (magnitude >> 13 & 0x1ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and up round to infinity
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14 and up: normal
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  } else {  // adding 0.5 leaves the subnormal half, rounded by the FPU, in the low bits
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  }
  return static_cast<uint16_t>(sign | half);
}

uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 64u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint16_t scale_to_half(float scale) {
  const uint16_t half = float_to_half(scale);
  if ((half & 0x7c00u) == 0x7c00u)
    fail(ErrorKind::kInvalidInput, "a weight is too large for this format (its scale would be {})",
         scale);
  return half;
}

void quantize(DType type, const float* src, void* dst, size_t n) {
  WEFT_ASSERT(n % traits(type).block_elements == 0);
  check_finite(src, n);
  switch (type) {
    case DType::kF32:
      if (n != 0) std::memcpy(dst, src, n * sizeof(float));
      return;
    case DType::kF16:
      for (size_t i = 0; i < n; ++i)
        if (std::fabs(src[i]) >= 65520.0f)
          fail(ErrorKind::kInvalidInput, "a weight is {}, too large for f16 (65504); use bf16",
               src[i]);
      return convert<float_to_half>(src, dst, n);
    case DType::kBF16:
      return convert<float_to_bfloat16>(src, dst, n);
    case DType::kQ4_0:
      return quantize_blocks<BlockQ4_0, kBlock>(src, dst, n);
    case DType::kQ4_1:
      return quantize_blocks<BlockQ4_1, kBlock>(src, dst, n);
    case DType::kQ5_0:
      return quantize_blocks<BlockQ5_0, kBlock>(src, dst, n);
    case DType::kQ5_1:
      return quantize_blocks<BlockQ5_1, kBlock>(src, dst, n);
    case DType::kQ8_0:
      return quantize_blocks<BlockQ8_0, kBlock>(src, dst, n);
    case DType::kQ2_K:
      return quantize_blocks<BlockQ2_K, kSuperBlock>(src, dst, n);
    case DType::kQ3_K:
      return quantize_blocks<BlockQ3_K, kSuperBlock>(src, dst, n);
    case DType::kQ4_K:
      return quantize_blocks<BlockQ4_K, kSuperBlock>(src, dst, n);
    case DType::kQ5_K:
      return quantize_blocks<BlockQ5_K, kSuperBlock>(src, dst, n);
    case DType::kQ6_K:
      return quantize_blocks<BlockQ6_K, kSuperBlock>(src, dst, n);
    default:
      WEFT_ASSERT(!"a weight type");
  }
}

}  // namespace weft::kernels
