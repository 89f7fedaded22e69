#include <bit>

#include "base/error.h"
#include "kernels/blocks.h"
#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

// Unaligned loads of plain formats.
template <typename T>
T load(const void* src, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const uint8_t*>(src) + i * sizeof(T), sizeof(T));
  return value;
}

void dequantize_block(const BlockQ4_0& b, float* y) {
  const float d = half_to_float(b.d);
  for (size_t l = 0; l < 16; ++l) {
    y[l] = d * static_cast<float>((b.qs[l] & 15) - 8);
    y[16 + l] = d * static_cast<float>((b.qs[l] >> 4) - 8);
  }
}

void dequantize_block(const BlockQ4_1& b, float* y) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  for (size_t l = 0; l < 16; ++l) {
    y[l] = d * static_cast<float>(b.qs[l] & 15) + m;
    y[16 + l] = d * static_cast<float>(b.qs[l] >> 4) + m;
  }
}

void dequantize_block(const BlockQ5_0& b, float* y) {
  const float d = half_to_float(b.d);
  const uint32_t high = load<uint32_t>(b.qh, 0);
  for (uint32_t l = 0; l < 16; ++l) {
    const uint32_t q0 = (b.qs[l] & 15u) | (high >> l & 1) << 4;
    const uint32_t q1 = (b.qs[l] >> 4) | (high >> (16 + l) & 1) << 4;
    y[l] = d * static_cast<float>(static_cast<int>(q0) - 16);
    y[16 + l] = d * static_cast<float>(static_cast<int>(q1) - 16);
  }
}

void dequantize_block(const BlockQ5_1& b, float* y) {
  const float d = half_to_float(b.d), m = half_to_float(b.m);
  const uint32_t high = load<uint32_t>(b.qh, 0);
  for (uint32_t l = 0; l < 16; ++l) {
    const uint32_t q0 = (b.qs[l] & 15u) | (high >> l & 1) << 4;
    const uint32_t q1 = (b.qs[l] >> 4) | (high >> (16 + l) & 1) << 4;
    y[l] = d * static_cast<float>(static_cast<int>(q0)) + m;
    y[16 + l] = d * static_cast<float>(static_cast<int>(q1)) + m;
  }
}

void dequantize_block(const BlockQ8_0& b, float* y) {
  const float d = half_to_float(b.d);
  for (size_t l = 0; l < kBlock; ++l) y[l] = d * static_cast<float>(b.qs[l]);
}

void dequantize_block(const BlockQ2_K& b, float* y) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  for (size_t j = 0; j < 16; ++j) {  // sub-block j is half of group j / 2
    const float scale = d * static_cast<float>(b.scales[j] & 15);
    const float min = dmin * static_cast<float>(b.scales[j] >> 4);
    const uint8_t* qs = b.qs + j / 8 * 32 + j % 2 * 16;
    const int shift = static_cast<int>(j / 2 % 4) * 2;
    for (size_t l = 0; l < 16; ++l)
      y[j * 16 + l] = scale * static_cast<float>(qs[l] >> shift & 3) - min;
  }
}

void dequantize_block(const BlockQ3_K& b, float* y) {
  const float d = half_to_float(b.d);
  uint8_t scales[16];
  unpack_q3_scales(b.scales, scales);
  for (size_t j = 0; j < 16; ++j) {
    const float scale = d * static_cast<float>(scales[j] - 32);
    const uint8_t* qs = b.qs + j / 8 * 32 + j % 2 * 16;
    const uint8_t* mask = b.hmask + j % 2 * 16;
    const int shift = static_cast<int>(j / 2 % 4) * 2, bit = static_cast<int>(j / 2);
    for (size_t l = 0; l < 16; ++l) {
      const int q = (qs[l] >> shift & 3) + (mask[l] >> bit & 1) * 4 - 4;
      y[j * 16 + l] = scale * static_cast<float>(q);
    }
  }
}

void dequantize_block(const BlockQ4_K& b, float* y) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  uint8_t scales[8], mins[8];
  unpack_scales_mins(b.scales, scales, mins);
  for (size_t g = 0; g < 8; ++g) {
    const float scale = d * static_cast<float>(scales[g]);
    const float min = dmin * static_cast<float>(mins[g]);
    const uint8_t* qs = b.qs + g / 2 * 32;
    const int shift = static_cast<int>(g % 2) * 4;
    for (size_t l = 0; l < 32; ++l)
      y[g * 32 + l] = scale * static_cast<float>(qs[l] >> shift & 15) - min;
  }
}

void dequantize_block(const BlockQ5_K& b, float* y) {
  const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
  uint8_t scales[8], mins[8];
  unpack_scales_mins(b.scales, scales, mins);
  for (size_t g = 0; g < 8; ++g) {
    const float scale = d * static_cast<float>(scales[g]);
    const float min = dmin * static_cast<float>(mins[g]);
    const uint8_t* qs = b.qs + g / 2 * 32;
    const int shift = static_cast<int>(g % 2) * 4, bit = static_cast<int>(g);
    for (size_t l = 0; l < 32; ++l) {
      const int q = (qs[l] >> shift & 15) | (b.qh[l] >> bit & 1) << 4;
      y[g * 32 + l] = scale * static_cast<float>(q) - min;
    }
  }
}

void dequantize_block(const BlockQ6_K& b, float* y) {
  const float d = half_to_float(b.d);
  for (size_t j = 0; j < 16; ++j) {
    const float scale = d * static_cast<float>(b.scales[j]);
    const size_t g = j / 2, l0 = j % 2 * 16;
    const uint8_t* ql = b.ql + g / 4 * 64 + g % 2 * 32 + l0;
    const uint8_t* qh = b.qh + g / 4 * 32 + l0;
    const int low = static_cast<int>(g / 2 % 2) * 4, high = static_cast<int>(g % 4) * 2;
    for (size_t l = 0; l < 16; ++l) {
      const int q = ((ql[l] >> low & 15) | (qh[l] >> high & 3) << 4) - 32;
      y[j * 16 + l] = scale * static_cast<float>(q);
    }
  }
}

template <typename Block, size_t kValues>
void dequantize_blocks(const void* src, float* dst, size_t n) {
  const auto* blocks = static_cast<const Block*>(src);
  for (size_t i = 0; i < n / kValues; ++i) dequantize_block(blocks[i], dst + i * kValues);
}

}  // namespace

float half_to_float(uint16_t bits) {
  // Branch-free, so that loops of it vectorise, and without subnormal floats, which are slow on
  // many CPUs: a subnormal half is put behind an implicit one, which is subtracted again.
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t shifted = (bits & 0x7fffu) << 13;
  const uint32_t exponent = bits & 0x7c00u;
  const uint32_t rebias = exponent == 0x7c00u ? 224u << 23 : 112u << 23;
  const float normal = std::bit_cast<float>(shifted + rebias);
  const float subnormal = std::bit_cast<float>(shifted + (113u << 23)) - 0x1p-14f;
  const float magnitude = exponent == 0 ? subnormal : normal;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

float bfloat16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

void dequantize(DType type, const void* src, float* dst, size_t n) {
  WEFT_ASSERT(n % traits(type).block_elements == 0);
  switch (type) {
    case DType::kF32:
      std::memcpy(dst, src, n * sizeof(float));
      return;
    case DType::kF16:
      for (size_t i = 0; i < n; ++i) dst[i] = half_to_float(load<uint16_t>(src, i));
      return;
    case DType::kBF16:
      for (size_t i = 0; i < n; ++i) dst[i] = bfloat16_to_float(load<uint16_t>(src, i));
      return;
    case DType::kQ4_0:
      return dequantize_blocks<BlockQ4_0, kBlock>(src, dst, n);
    case DType::kQ4_1:
      return dequantize_blocks<BlockQ4_1, kBlock>(src, dst, n);
    case DType::kQ5_0:
      return dequantize_blocks<BlockQ5_0, kBlock>(src, dst, n);
    case DType::kQ5_1:
      return dequantize_blocks<BlockQ5_1, kBlock>(src, dst, n);
    case DType::kQ8_0:
      return dequantize_blocks<BlockQ8_0, kBlock>(src, dst, n);
    case DType::kQ2_K:
      return dequantize_blocks<BlockQ2_K, kSuperBlock>(src, dst, n);
    case DType::kQ3_K:
      return dequantize_blocks<BlockQ3_K, kSuperBlock>(src, dst, n);
    case DType::kQ4_K:
      return dequantize_blocks<BlockQ4_K, kSuperBlock>(src, dst, n);
    case DType::kQ5_K:
      return dequantize_blocks<BlockQ5_K, kSuperBlock>(src, dst, n);
    case DType::kQ6_K:
      return dequantize_blocks<BlockQ6_K, kSuperBlock>(src, dst, n);
    default:
      WEFT_ASSERT(!"a weight type");
  }
}

}  // namespace weft::kernels
