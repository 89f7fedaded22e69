// How a Linear keeps its weights: panels of 16 outputs, so that one vector holds 16 outputs and an
// activation is broadcast to all of them (no horizontal sums). The bytes per weight are the file's.
//
// Block formats: a panel is one stream of scale groups, each [scales][codes of 1 or 8 blocks], a
// block being 32 input features: a product reads it from front to back, and nothing else.
//   codes of a block: 64-byte vectors, byte 4*r + i of a vector belongs to output r. Group g of a
//   block is features 4g ... 4g+3, the four bytes of an int8 dot product:
//     8 bit  vector g                 = group g (plus 128)
//     4 bit  vector j, low nibble     = group j, high nibble = group j + 4
//     5 bit  4 bit, then one vector   whose bit g is bit 4 of group g
//     6 bit  4 bit, then two vectors  whose bits 2(g%4) ... of vector g/4 are bits 4-5 of group g
//     2 bit  vector g/4, bits 2(g%4) ...
//     3 bit  2 bit, then one vector   whose bit g is bit 2 of group g
//   scales: 16-lane rows (f16 d[16], ...), for each block or for each 8 blocks of a K-quant:
//     q4_0 q5_0 q8_0   block: f16 d[16]
//     q4_1 q5_1        block: f16 d[16], f16 m[16]
//     q4_K q5_K        8 blocks: f16 d[16], f16 dmin[16], six-bit (scale, min) pairs
//     q3_K             8 blocks: f16 d[16], six-bit pairs (scales of features 0-15 and 16-31)
//     q6_K             8 blocks: f16 d[16], i8 scale[16 sub-blocks of 16][16]
//     q2_K             8 blocks: f16 d[16], f16 dmin[16], u8 (scale | min << 4)[16 sub-blocks][16]
//   six-bit pairs (a, b) of the 8 blocks: u8 (a & 15 | (b & 15) << 4)[8][16], then
//     u8 (a >> 4 | (b >> 4) << 2 | same of the next block << 4)[4][16]
// Plain formats: f32 and f16 (in_features, 16); bf16 (in_features / 2, 16, 2), zero-padded if odd.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace weft::kernels {

inline constexpr size_t kPanelOutputs = 16;
inline constexpr size_t kBlockFeatures = 32;

// What the code values of a block format are, and how their scales lie.
struct PanelFormat {
  int bits = 0;    // 0: a plain format
  int offset = 0;  // value = scale * (code - offset) + min
  bool has_min = false;
  bool sub_blocks = false;      // scales for 16 features each instead of 32
  size_t scale_bytes = 0;       // of one scale group, 16 outputs
  size_t blocks_per_scale = 1;  // 8 for K-quants
};

constexpr PanelFormat panel_format(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {.bits = 4, .offset = 8, .scale_bytes = 32};
    case DType::kQ5_0:
      return {.bits = 5, .offset = 16, .scale_bytes = 32};
    case DType::kQ8_0:
      return {.bits = 8, .offset = 128, .scale_bytes = 32};
    case DType::kQ4_1:
      return {.bits = 4, .has_min = true, .scale_bytes = 64};
    case DType::kQ5_1:
      return {.bits = 5, .has_min = true, .scale_bytes = 64};
    case DType::kQ4_K:
      return {.bits = 4, .has_min = true, .scale_bytes = 64 + 192, .blocks_per_scale = 8};
    case DType::kQ5_K:
      return {.bits = 5, .has_min = true, .scale_bytes = 64 + 192, .blocks_per_scale = 8};
    case DType::kQ3_K:
      return {.bits = 3,
              .offset = 4,
              .sub_blocks = true,
              .scale_bytes = 32 + 192,
              .blocks_per_scale = 8};
    case DType::kQ6_K:
      return {.bits = 6,
              .offset = 32,
              .sub_blocks = true,
              .scale_bytes = 32 + 256,
              .blocks_per_scale = 8};
    case DType::kQ2_K:
      return {.bits = 2,
              .has_min = true,
              .sub_blocks = true,
              .scale_bytes = 64 + 256,
              .blocks_per_scale = 8};
    default:
      return {};
  }
}

constexpr size_t code_bytes(int bits) { return static_cast<size_t>(bits) * 64; }  // of one block

// Bytes of a scale group: the scales, then the codes they belong to.
constexpr size_t group_bytes(const PanelFormat& f) {
  return f.scale_bytes + f.blocks_per_scale * code_bytes(f.bits);
}

// Where in a panel the scales and the codes of block b are.
constexpr size_t scales_at(const PanelFormat& f, size_t b) {
  return b / f.blocks_per_scale * group_bytes(f);
}
constexpr size_t codes_at(const PanelFormat& f, size_t b) {
  return scales_at(f, b) + f.scale_bytes + b % f.blocks_per_scale * code_bytes(f.bits);
}

constexpr size_t panel_bytes(DType type, size_t in_features) {
  const PanelFormat f = panel_format(type);
  if (f.bits == 0) {
    const size_t size = type == DType::kF32 ? 4 : 2;
    const size_t features = type == DType::kBF16 ? (in_features + 1) / 2 * 2 : in_features;
    return (features * kPanelOutputs * size + 63) / 64 * 64;
  }
  return (scales_at(f, in_features / kBlockFeatures) + 63) / 64 * 64;
}

// One row of x, 32 features: int8 codes and what the weight formats need to know of them. One cache
// line, so that a product touches one stream.
struct alignas(64) QuantisedBlock {
  int8_t codes[32];       // x ~ scale * code, codes in [-127, 127]
  float scale;            // max |x| / 127
  float scaled_sum;       // scale * sum of codes: what a weight's min is multiplied by
  int32_t negative_sum;   // -sum of codes: times the offset, it starts the integer sum
  float scaled_sum16[2];  // the same for features 0-15 and 16-31
  int32_t negative_sum16[2];
  int32_t unused;
};
static_assert(sizeof(QuantisedBlock) == 64);

// Rows of a product are taken in tiles of 8, then 4, 2, 1; a tile of M rows is stored with its rows
// innermost, so that a kernel reaches each at a constant offset:
//   int8 (in_features / 32, M) QuantisedBlock;  bf16 (in_features / 2, M, 2);  f32 (in_features, M)
struct RowTile {
  size_t first_row, num_rows;
};

constexpr size_t num_row_tiles(size_t num_rows) {
  return num_rows / 8 + (num_rows >> 2 & 1) + (num_rows >> 1 & 1) + (num_rows & 1);
}

constexpr RowTile row_tile(size_t num_rows, size_t index) {
  size_t first = num_rows / 8 * 8;
  if (index < num_rows / 8) return {index * 8, 8};
  index -= num_rows / 8;
  for (size_t m = 4; m != 0; m /= 2) {
    if ((num_rows & m) == 0) continue;
    if (index-- == 0) return {first, m};
    first += m;
  }
  return {first, 0};
}

}  // namespace weft::kernels
