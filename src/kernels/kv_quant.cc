#include "kernels/kv_quant.h"

#include <cstring>

#include "base/error.h"
#include "kernels/dispatch.h"
#include "kernels/quantize.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_quant.cc"
#include "hwy/foreach_target.h"
#include "kernels/kv_quant-inl.h"

#if HWY_ONCE
namespace weft::kernels {
HWY_EXPORT(KvRange);
HWY_EXPORT(KvCodes);
HWY_EXPORT(ShrinkCodes);

namespace {

constexpr uint16_t kSign = 0x8000;

// Neither gives -0: the sign of a zero extreme depends on the order of comparisons.
uint16_t half_not_below(float x) {  // x >= 0
  if (x == 0) return 0;
  uint16_t h = float_to_half(x);
  if (half_to_float(h) < x) ++h;
  return h;
}

uint16_t half_not_above(float x) {
  if (x == 0) return 0;
  const uint16_t h = float_to_half(x);
  if (half_to_float(h) <= x) return h;
  if (h == 0) return kSign | 1;
  return static_cast<uint16_t>(h & kSign ? h + 1 : h - 1);
}

void check(const KvShape& shape) {
  WEFT_ASSERT(shape.head_dim % 16 == 0 && shape.head_dim <= 512);
  WEFT_ASSERT(shape.group_size() % 16 == 0 && shape.head_dim % shape.group_size() == 0);
}

// Where value i of a head's K or V lies in a 16-bit page, in values.
size_t place_of(bool is_key, KvFormat format, size_t dim, size_t token, size_t i) {
  const size_t row = is_key ? i : token, column = is_key ? token : i;
  const size_t columns = is_key ? kPageTokens : dim;
  if (format == KvFormat::kF16) return row * columns + column;
  return (row / 2 * columns + column) * 2 + row % 2;
}

std::optional<KvFault> find_fault(const KvShape& shape, KvFormat format, bool is_key, size_t head,
                                  const uint8_t* side) {
  const uint16_t exponent = format == KvFormat::kF16 ? 0x7C00 : 0x7F80;
  const auto* values = reinterpret_cast<const uint16_t*>(side);
  const size_t n = kPageTokens * shape.head_dim;
  uint16_t bad = 0;
  for (size_t i = 0; i < n; ++i) bad |= (values[i] & exponent) == exponent ? 1 : 0;
  if (bad == 0) return std::nullopt;
  for (size_t token = 0; token < kPageTokens; ++token) {
    for (size_t i = 0; i < shape.head_dim; ++i) {
      const size_t place = place_of(is_key, format, shape.head_dim, token, i);
      if ((values[place] & exponent) == exponent) return KvFault{is_key, head, token, i};
    }
  }
  return std::nullopt;
}

// One head's keys or values.
void quantize_side(const KvShape& shape, bool is_key, KvFormat from_format, const uint8_t* from,
                   KvFormat to_format, uint8_t* to, uint8_t* meta) {
  const size_t group = shape.group_size();
  for (size_t g = 0; g < shape.num_groups(); ++g, meta += 2 * kPageTokens * sizeof(uint16_t)) {
    float least[kPageTokens], most[kPageTokens], inverse[kPageTokens];
    WEFT_DISPATCH(KvRange)
    (is_key, from_format, from, shape.head_dim, g * group, (g + 1) * group, least, most);
    uint16_t s[kPageTokens], z[kPageTokens];
    for (size_t t = 0; t < kPageTokens; ++t) {
      z[t] = half_not_above(least[t]);
      least[t] = half_to_float(z[t]);
      s[t] = half_not_below((most[t] - least[t]) / 255.0f);
      inverse[t] = s[t] == 0 ? 0.0f : 1.0f / half_to_float(s[t]);
    }
    std::memcpy(meta, s, sizeof s);
    std::memcpy(meta + sizeof s, z, sizeof z);
    WEFT_DISPATCH(KvCodes)
    (is_key, from_format, to_format, from, shape.head_dim, g * group, (g + 1) * group, least,
     inverse, to);
  }
}

// One head's keys or values; `to` may lie at or before `from`.
void shrink_side(size_t dim, KvFormat from_format, const uint8_t* from, KvFormat to_format,
                 uint8_t* to) {
  if (from_format == to_format) {
    std::memmove(to, from, kPageTokens * dim * bits(from_format) / 8);
    return;
  }
  WEFT_ASSERT(is_quantized(from_format) && bits(to_format) < bits(from_format));
  WEFT_DISPATCH(ShrinkCodes)
  (from, bits(from_format), bits(to_format), kPageTokens * dim * bits(to_format) / 8 / 64, to);
}

size_t code_at(bool is_key, size_t bits, size_t dim, const uint8_t* side, size_t token, size_t i) {
  const size_t row = is_key ? i : token, column = is_key ? token : i;
  const size_t rows = is_key ? dim : kPageTokens;
  const size_t quad = row / 4, quads = 8 / bits;
  const size_t chunk = column / 16 * (rows / 4 / quads) + quad / quads;
  const uint8_t byte = side[chunk * 64 + column % 16 * 4 + row % 4];
  return byte >> (quad % quads * bits) & ((1u << bits) - 1);
}

void dequantize_side(const KvShape& shape, bool is_key, KvFormat format, const uint8_t* side,
                     const uint8_t* meta, float* out) {
  const size_t dim = shape.head_dim, group = shape.group_size();
  const auto* halves = reinterpret_cast<const uint16_t*>(meta);
  for (size_t token = 0; token < kPageTokens; ++token) {
    for (size_t i = 0; i < dim; ++i) {
      float& x = out[token * dim + i];
      if (!is_quantized(format)) {
        const uint16_t stored =
            reinterpret_cast<const uint16_t*>(side)[place_of(is_key, format, dim, token, i)];
        x = format == KvFormat::kF16 ? half_to_float(stored) : bfloat16_to_float(stored);
        continue;
      }
      const uint16_t* g = halves + i / group * 2 * kPageTokens;
      const auto code = static_cast<float>(code_at(is_key, bits(format), dim, side, token, i));
      x = code * (half_to_float(g[token]) * step_factor(format)) +
          half_to_float(g[kPageTokens + token]);
    }
  }
}

}  // namespace

std::optional<KvFault> quantize_kv_page(const KvShape& shape, const KvPage& from,
                                        const KvPageOut& to) {
  check(shape);
  WEFT_ASSERT(!is_quantized(from.k_format) && !is_quantized(from.v_format));
  for (size_t h = 0; h < shape.num_kv_heads; ++h) {
    for (const bool is_key : {true, false}) {
      const uint8_t* const side_from = is_key ? from.head_keys(h) : from.head_values(shape, h);
      uint8_t* const side_to = is_key ? to.data + h * to.head_stride : to.head_values(shape, h);
      const KvFormat narrow = is_key ? to.k_format : to.v_format;
      const KvFormat wide = is_key ? from.k_format : from.v_format;
      if (const auto fault = find_fault(shape, wide, is_key, h, side_from)) return fault;
      if (is_quantized(narrow)) {
        const size_t offset = is_key ? 0 : shape.meta_head_bytes() / 2;
        quantize_side(shape, is_key, wide, side_from, narrow, side_to,
                      to.meta + h * to.meta_stride + offset);
      } else {
        WEFT_ASSERT(narrow == wide);
        std::memcpy(side_to, side_from, shape.head_bytes(wide));
      }
    }
  }
  return std::nullopt;
}

void shrink_kv_page(const KvShape& shape, const KvPage& from, const KvPageOut& to) {
  check(shape);
  for (size_t h = 0; h < shape.num_kv_heads; ++h) {
    shrink_side(shape.head_dim, from.k_format, from.head_keys(h), to.k_format,
                to.data + h * to.head_stride);
    shrink_side(shape.head_dim, from.v_format, from.head_values(shape, h), to.v_format,
                to.head_values(shape, h));
  }
}

void dequantize_kv_page(const KvShape& shape, const KvPage& page, size_t head, float* k, float* v) {
  check(shape);
  const uint8_t* keys = page.head_keys(head);
  const uint8_t* values = page.head_values(shape, head);
  const uint8_t* meta = page.meta == nullptr ? nullptr : page.meta + head * page.meta_stride;
  if (k != nullptr) dequantize_side(shape, true, page.k_format, keys, meta, k);
  if (v != nullptr)
    dequantize_side(shape, false, page.v_format, values,
                    meta == nullptr ? nullptr : meta + shape.meta_head_bytes() / 2, v);
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
