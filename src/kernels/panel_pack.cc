// Packing weights into panels and reading single rows back. Four codes are handled at a time as the
// bytes of a 32-bit word, in the order that both the files and the panels keep them.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "kernels/linear.h"
#include "kernels/panel_layout.h"
#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

using Words = std::array<uint32_t, 8>;  // codes of 32 features, word g = group g

constexpr uint32_t kNibbles = 0x0F0F0F0F;

uint32_t load_u32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

uint16_t load_u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

// Bits 4g ... 4g+3 of `bits` into bit 0 of the four bytes of a word.
uint32_t spread4(uint32_t bits, int g) {
  const uint32_t b = bits >> (4 * g) & 15;
  return (b & 1) | (b & 2) << 7 | (b & 4) << 14 | (b & 8) << 21;
}

// The codes of block `sub` (of 8, for K-quants; 0 else) of one file block (layouts: quantize.h).
template <DType type>
Words read_codes(const uint8_t* block, size_t sub) {
  Words w;
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ4_1: {
      const uint8_t* qs = block + (type == DType::kQ4_0 ? 2 : 4);
      for (int g = 0; g < 4; ++g) {
        const uint32_t v = load_u32(qs + 4 * g);
        w[g] = v & kNibbles;
        w[g + 4] = v >> 4 & kNibbles;
      }
      break;
    }
    case DType::kQ5_0:
    case DType::kQ5_1: {
      const uint8_t* qh = block + (type == DType::kQ5_0 ? 2 : 4);
      const uint32_t high = load_u32(qh);
      for (int g = 0; g < 4; ++g) {
        const uint32_t v = load_u32(qh + 4 + 4 * g);
        w[g] = (v & kNibbles) | spread4(high, g) << 4;
        w[g + 4] = (v >> 4 & kNibbles) | spread4(high, g + 4) << 4;
      }
      break;
    }
    case DType::kQ8_0:
      for (int g = 0; g < 8; ++g) w[g] = load_u32(block + 2 + 4 * g) ^ 0x80808080u;
      break;
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const uint8_t* qh = block + 16;  // q5_K only: bit `sub` of byte l
      const uint8_t* qs = block + (type == DType::kQ4_K ? 16 : 48) + sub / 2 * 32;
      for (int g = 0; g < 8; ++g) {
        w[g] = load_u32(qs + 4 * g) >> (sub % 2 * 4) & kNibbles;
        if (type == DType::kQ5_K) w[g] |= (load_u32(qh + 4 * g) >> sub & 0x01010101u) << 4;
      }
      break;
    }
    case DType::kQ6_K: {
      const size_t half = sub / 4, s = sub % 4;
      const uint8_t* ql = block + half * 64 + s % 2 * 32;
      const uint8_t* qh = block + 128 + half * 32;
      for (int g = 0; g < 8; ++g) {
        w[g] = (load_u32(ql + 4 * g) >> (s / 2 * 4) & kNibbles) |
               (load_u32(qh + 4 * g) >> (2 * s) & 0x03030303u) << 4;
      }
      break;
    }
    case DType::kQ3_K: {
      const uint8_t* high = block;
      const uint8_t* qs = block + 32 + sub / 4 * 32;
      for (int g = 0; g < 8; ++g) {
        w[g] = (load_u32(qs + 4 * g) >> (sub % 4 * 2) & 0x03030303u) |
               (load_u32(high + 4 * g) >> sub & 0x01010101u) << 2;
      }
      break;
    }
    case DType::kQ2_K: {
      const uint8_t* qs = block + 16 + sub / 4 * 32;
      for (int g = 0; g < 8; ++g) w[g] = load_u32(qs + 4 * g) >> (sub % 4 * 2) & 0x03030303u;
      break;
    }
    default:
      WEFT_ASSERT(false);
  }
  return w;
}

// Writes output r's codes of one block; `codes` is 64-byte vectors seen as words, 16 to a vector.
template <int bits>
void write_codes(const Words& w, uint32_t* codes, size_t r) {
  const auto at = [&](size_t vector) -> uint32_t& { return codes[vector * 16 + r]; };
  if (bits == 8) {
    for (size_t g = 0; g < 8; ++g) at(g) = w[g];
    return;
  }
  if (bits >= 4) {
    for (size_t j = 0; j < 4; ++j) at(j) = (w[j] & kNibbles) | (w[j + 4] & kNibbles) << 4;
  } else {
    for (size_t v = 0; v < 2; ++v) {
      at(v) = 0;
      for (size_t f = 0; f < 4; ++f) at(v) |= (w[4 * v + f] & 0x03030303u) << (2 * f);
    }
  }
  if (bits == 5 || bits == 3) {
    uint32_t high = 0;
    for (size_t g = 0; g < 8; ++g) high |= (w[g] >> (bits - 1) & 0x01010101u) << g;
    at(bits == 5 ? 4 : 2) = high;
  }
  if (bits == 6) {
    for (size_t v = 0; v < 2; ++v) {
      uint32_t high = 0;
      for (size_t f = 0; f < 4; ++f) high |= (w[4 * v + f] >> 4 & 0x03030303u) << (2 * f);
      at(4 + v) = high;
    }
  }
}

Words read_packed_codes(int bits, const uint32_t* codes, size_t r) {
  const auto at = [&](size_t vector) { return codes[vector * 16 + r]; };
  Words w;
  for (size_t g = 0; g < 8; ++g) {
    if (bits == 8) {
      w[g] = at(g);
    } else if (bits >= 4) {
      w[g] = at(g % 4) >> (g / 4 * 4) & kNibbles;
    } else {
      w[g] = at(g / 4) >> (g % 4 * 2) & 0x03030303u;
    }
    if (bits == 5) w[g] |= (at(4) >> g & 0x01010101u) << 4;
    if (bits == 3) w[g] |= (at(2) >> g & 0x01010101u) << 2;
    if (bits == 6) w[g] |= (at(4 + g / 4) >> (g % 4 * 2) & 0x03030303u) << 4;
  }
  return w;
}

struct SixBitPair {
  uint8_t a, b;
};

void write_six_bit_pair(uint8_t* pairs, size_t sub, size_t r, SixBitPair p) {
  pairs[sub * 16 + r] = static_cast<uint8_t>((p.a & 15) | (p.b & 15) << 4);
  uint8_t& high = pairs[128 + sub / 2 * 16 + r];
  const int shift = sub % 2 == 0 ? 0 : 4;
  high = static_cast<uint8_t>((high & ~(15 << shift)) | (p.a >> 4 | (p.b >> 4) << 2) << shift);
}

SixBitPair read_six_bit_pair(const uint8_t* pairs, size_t sub, size_t r) {
  const uint8_t low = pairs[sub * 16 + r];
  const int high = pairs[128 + sub / 2 * 16 + r] >> (sub % 2 * 4);
  return {static_cast<uint8_t>((low & 15) | (high & 3) << 4),
          static_cast<uint8_t>(low >> 4 | (high >> 2 & 3) << 4)};
}

// The (scale, min) of sub-block j in the 12 bytes of a q4_K or q5_K block.
SixBitPair file_scale_min(const uint8_t* s, size_t j) {
  if (j < 4) return {static_cast<uint8_t>(s[j] & 63), static_cast<uint8_t>(s[j + 4] & 63)};
  return {static_cast<uint8_t>((s[j + 4] & 15) | s[j - 4] >> 6 << 4),
          static_cast<uint8_t>(s[j + 4] >> 4 | s[j] >> 6 << 4)};
}

// Scale j of 16 in the 12 bytes of a q3_K block (to be taken minus 32).
uint8_t file_q3_scale(const uint8_t* s, size_t j) {
  const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
  const int high = s[8 + j % 4] >> (j / 4 * 2) & 3;
  return static_cast<uint8_t>(low | high << 4);
}

// Writes output r's scales of one scale group from its file block.
template <DType type>
void write_scales(const uint8_t* block, uint8_t* scales, size_t r) {
  const auto put_half = [&](size_t row, const uint8_t* half) {
    std::memcpy(scales + row * 32 + r * 2, half, 2);
  };
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
      put_half(0, block);
      break;
    case DType::kQ4_1:
    case DType::kQ5_1:
      put_half(0, block);
      put_half(1, block + 2);
      break;
    case DType::kQ4_K:
    case DType::kQ5_K:
      put_half(0, block);
      put_half(1, block + 2);
      for (size_t j = 0; j < 8; ++j)
        write_six_bit_pair(scales + 64, j, r, file_scale_min(block + 4, j));
      break;
    case DType::kQ6_K:
      put_half(0, block + 208);
      for (size_t j = 0; j < 16; ++j) scales[32 + j * 16 + r] = block[192 + j];
      break;
    case DType::kQ3_K:
      put_half(0, block + 108);
      for (size_t j = 0; j < 8; ++j) {
        write_six_bit_pair(
            scales + 32, j, r,
            {file_q3_scale(block + 96, 2 * j), file_q3_scale(block + 96, 2 * j + 1)});
      }
      break;
    case DType::kQ2_K:
      put_half(0, block + 80);
      put_half(1, block + 82);
      for (size_t j = 0; j < 16; ++j) scales[64 + j * 16 + r] = block[j];
      break;
    default:
      WEFT_ASSERT(false);
  }
}

struct ScaleMin {
  float scale, min;
};

// Of features 16 * half ... of block `sub` (within its scale group), as the file's format defines
// it.
ScaleMin read_scale(DType type, const uint8_t* scales, size_t sub, size_t half, size_t r) {
  const auto get_half = [&](size_t row) {
    return half_to_float(load_u16(scales + row * 32 + r * 2));
  };
  const float d = get_half(0);
  switch (type) {
    case DType::kQ4_1:
    case DType::kQ5_1:
      return {d, get_half(1)};
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const SixBitPair p = read_six_bit_pair(scales + 64, sub, r);
      return {d * p.a, -(get_half(1) * p.b)};
    }
    case DType::kQ6_K: {
      const auto s = static_cast<int8_t>(scales[32 + (2 * sub + half) * 16 + r]);
      return {d * s, 0};
    }
    case DType::kQ3_K: {
      const SixBitPair p = read_six_bit_pair(scales + 32, sub, r);
      return {d * static_cast<float>((half == 0 ? p.a : p.b) - 32), 0};
    }
    case DType::kQ2_K: {
      const uint8_t s = scales[64 + (2 * sub + half) * 16 + r];
      return {d * static_cast<float>(s & 15), -(get_half(1) * static_cast<float>(s >> 4))};
    }
    default:
      return {d, 0};
  }
}

// The rows that are packed, in the order of the outputs.
struct Rows {
  const TensorView& weight;
  const std::span<const uint32_t>* chosen;  // null: all

  size_t size() const { return chosen == nullptr ? weight.shape[0] : chosen->size(); }
  const uint8_t* row(size_t output) const {
    return weight.row(chosen == nullptr ? output : (*chosen)[output]);
  }
};

template <DType type>
void pack_quantised_panel(const Rows& rows, size_t first_output, uint8_t* panel) {
  constexpr PanelFormat format = panel_format(type);
  const size_t in = rows.weight.shape[1], file_block = traits(type).block_bytes;
  const size_t outputs = std::min(kPanelOutputs, rows.size() - first_output);
  for (size_t r = 0; r < outputs; ++r) {
    const uint8_t* row = rows.row(first_output + r);
    for (size_t b = 0; b < in / kBlockFeatures; ++b) {
      const size_t group = b / format.blocks_per_scale, sub = b % format.blocks_per_scale;
      const uint8_t* block = row + group * file_block;
      auto* codes = reinterpret_cast<uint32_t*>(panel + codes_at(format, b));
      write_codes<format.bits>(read_codes<type>(block, sub), codes, r);
      if (sub == 0) write_scales<type>(block, panel + scales_at(format, b), r);
    }
  }
}

template <typename T>
void pack_plain_panel(const Rows& rows, size_t first_output, bool in_pairs, uint8_t* panel) {
  const size_t in = rows.weight.shape[1];
  const size_t outputs = std::min(kPanelOutputs, rows.size() - first_output);
  auto* out = reinterpret_cast<T*>(panel);
  for (size_t r = 0; r < outputs; ++r) {
    const uint8_t* row = rows.row(first_output + r);
    for (size_t k = 0; k < in; ++k) {
      const size_t at = in_pairs ? (k / 2 * kPanelOutputs + r) * 2 + k % 2 : k * kPanelOutputs + r;
      std::memcpy(out + at, row + k * sizeof(T), sizeof(T));
    }
  }
}

void pack_panel(const Rows& rows, size_t first_output, uint8_t* panel) {
  switch (rows.weight.dtype) {
    case DType::kF32:
      return pack_plain_panel<float>(rows, first_output, false, panel);
    case DType::kF16:
      return pack_plain_panel<uint16_t>(rows, first_output, false, panel);
    case DType::kBF16:
      return pack_plain_panel<uint16_t>(rows, first_output, true, panel);
    case DType::kQ4_0:
      return pack_quantised_panel<DType::kQ4_0>(rows, first_output, panel);
    case DType::kQ4_1:
      return pack_quantised_panel<DType::kQ4_1>(rows, first_output, panel);
    case DType::kQ5_0:
      return pack_quantised_panel<DType::kQ5_0>(rows, first_output, panel);
    case DType::kQ5_1:
      return pack_quantised_panel<DType::kQ5_1>(rows, first_output, panel);
    case DType::kQ8_0:
      return pack_quantised_panel<DType::kQ8_0>(rows, first_output, panel);
    case DType::kQ2_K:
      return pack_quantised_panel<DType::kQ2_K>(rows, first_output, panel);
    case DType::kQ3_K:
      return pack_quantised_panel<DType::kQ3_K>(rows, first_output, panel);
    case DType::kQ4_K:
      return pack_quantised_panel<DType::kQ4_K>(rows, first_output, panel);
    case DType::kQ5_K:
      return pack_quantised_panel<DType::kQ5_K>(rows, first_output, panel);
    case DType::kQ6_K:
      return pack_quantised_panel<DType::kQ6_K>(rows, first_output, panel);
    default:
      WEFT_ASSERT(false);
  }
}

}  // namespace

Linear Linear::pack(const TensorView& weight, const CoreSet& cores, Arena* arena) {
  return pack_chosen(weight, nullptr, cores, arena);
}

Linear Linear::pack_rows(const TensorView& weight, std::span<const uint32_t> rows,
                         const CoreSet& cores, Arena* arena) {
  for (const uint32_t row : rows) WEFT_ASSERT(row < weight.shape.rows());
  return pack_chosen(weight, &rows, cores, arena);
}

size_t Linear::packed_bytes(DType dtype, size_t out_features, size_t in_features) {
  return (out_features + kPanelOutputs - 1) / kPanelOutputs *
         kernels::panel_bytes(dtype, in_features);
}

Linear Linear::over(DType dtype, size_t out_features, size_t in_features,
                    std::shared_ptr<const uint8_t> panels) {
  Linear linear;
  linear.dtype_ = dtype;
  linear.out_features_ = out_features;
  linear.in_features_ = in_features;
  linear.panel_bytes_ = kernels::panel_bytes(dtype, in_features);
  linear.packed_ = std::move(panels);
  return linear;
}

namespace {

void check_blocks(const TensorView& weight) {
  WEFT_ASSERT(weight.shape.rank() == 2 && traits(weight.dtype).is_weight);
  const size_t in_features = weight.shape[1];
  if (in_features % traits(weight.dtype).block_elements != 0 || in_features == 0)
    fail(ErrorKind::kInvalidInput, "a {} matrix needs rows of whole blocks of {}, this has {}",
         name(weight.dtype), traits(weight.dtype).block_elements, in_features);
}

// `panels` holds zeros.
void pack_panels(const Rows& rows, const CoreSet& cores, uint8_t* panels) {
  const size_t panel_bytes = kernels::panel_bytes(rows.weight.dtype, rows.weight.shape[1]);
  const size_t num_panels = (rows.size() + kPanelOutputs - 1) / kPanelOutputs;
  cores.parallel_for(num_panels, 4, [&](size_t begin, size_t end, size_t) {
    for (size_t p = begin; p < end; ++p)
      pack_panel(rows, p * kPanelOutputs, panels + p * panel_bytes);
  });
}

}  // namespace

void Linear::pack_into(const TensorView& weight, const CoreSet& cores, uint8_t* panels) {
  check_blocks(weight);
  std::memset(panels, 0, packed_bytes(weight.dtype, weight.shape[0], weight.shape[1]));
  pack_panels({weight, nullptr}, cores, panels);
}

Linear Linear::pack_chosen(const TensorView& weight, const std::span<const uint32_t>* chosen,
                           const CoreSet& cores, Arena* arena) {
  check_blocks(weight);
  const Rows rows{weight, chosen};
  Arena own("packed weights", 0);
  const std::shared_ptr<uint8_t> packed =
      (arena == nullptr ? own : *arena)
          .take(packed_bytes(weight.dtype, rows.size(), weight.shape[1]));
  if (arena == nullptr || !arena->is_filled()) pack_panels(rows, cores, packed.get());
  return over(weight.dtype, rows.size(), weight.shape[1], packed);
}

void Linear::dequantize_row(size_t row, float* out) const {
  WEFT_ASSERT(row < out_features_);
  const uint8_t* panel = this->panel(row / kPanelOutputs);
  const size_t r = row % kPanelOutputs;
  const PanelFormat format = panel_format(dtype_);
  if (format.bits == 0) {
    for (size_t k = 0; k < in_features_; ++k) {
      const size_t at = k * kPanelOutputs + r;
      const size_t pair_at = (k / 2 * kPanelOutputs + r) * 2 + k % 2;
      if (dtype_ == DType::kF32) std::memcpy(out + k, panel + at * 4, 4);
      if (dtype_ == DType::kF16) out[k] = half_to_float(load_u16(panel + at * 2));
      if (dtype_ == DType::kBF16) out[k] = bfloat16_to_float(load_u16(panel + pair_at * 2));
    }
    return;
  }
  for (size_t b = 0; b < in_features_ / kBlockFeatures; ++b) {
    const auto* codes = reinterpret_cast<const uint32_t*>(panel + codes_at(format, b));
    const Words w = read_packed_codes(format.bits, codes, r);
    const uint8_t* scales = panel + scales_at(format, b);
    for (size_t half = 0; half < 2; ++half) {
      const ScaleMin s = read_scale(dtype_, scales, b % format.blocks_per_scale, half, r);
      for (size_t i = 0; i < 16; ++i) {
        const size_t k = 16 * half + i;
        const int code = static_cast<int>(w[k / 4] >> (k % 4 * 8) & 255);
        const float value = s.scale * static_cast<float>(code - format.offset);
        out[b * kBlockFeatures + k] = format.has_min ? value + s.min : value;
      }
    }
  }
}

ActivationKind Linear::activation_kind() const {
  if (is_block_quantised(dtype_)) return ActivationKind::kInt8;
  return dtype_ == DType::kBF16 ? ActivationKind::kBF16 : ActivationKind::kF32;
}

}  // namespace weft::kernels
