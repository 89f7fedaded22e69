#include "kernels/kv_view.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/dispatch.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_view.cc"
#include "hwy/foreach_target.h"
#include "kernels/kv_view-inl.h"

#if HWY_ONCE
namespace weft::kernels {
HWY_EXPORT(RoundRowF16);
HWY_EXPORT(RoundRowBf16);

namespace {

constexpr size_t kMaxHeadDim = 512;

// Puts units of `Unit` (one value, or a pair) of `num_tokens` rows into columns: out[i][t].
template <typename Unit>
void store_columns(const uint16_t (*rows)[kMaxHeadDim], size_t num_tokens, size_t num_units,
                   Unit* out) {
  for (size_t i = 0; i < num_units; ++i) {
    for (size_t t = 0; t < num_tokens; ++t)
      std::memcpy(out + i * kPageTokens + t, rows[t] + i * sizeof(Unit) / 2, sizeof(Unit));
  }
}

}  // namespace

const char* name(KvFormat f) {
  switch (f) {
    case KvFormat::kF16:
      return "f16";
    case KvFormat::kBF16:
      return "bf16";
    case KvFormat::kInt8:
      return "int8";
    case KvFormat::kInt4:
      return "int4";
    case KvFormat::kInt2:
      return "int2";
  }
  return "?";
}

size_t KvShape::group_size() const {
  if (group != 0) return group;
  size_t size = std::min<size_t>(128, head_dim);
  while (size > 16 && (head_dim % size != 0 || size % 16 != 0)) size -= 1;
  return size;
}

void write_kv(const KvShape& shape, KvFormat format, uint8_t* page, size_t head_stride,
              size_t first_token, size_t num_tokens, const float* k, const float* v, size_t stride,
              uint8_t* values_of_page) {
  const size_t dim = shape.head_dim;
  WEFT_ASSERT(dim % 16 == 0 && dim <= kMaxHeadDim && first_token + num_tokens <= kPageTokens &&
              !is_quantized(format));
  const auto round_row =
      format == KvFormat::kF16 ? WEFT_DISPATCH(RoundRowF16) : WEFT_DISPATCH(RoundRowBf16);
  uint16_t rows[kPageTokens][kMaxHeadDim];
  for (size_t h = 0; h < shape.num_kv_heads; ++h) {
    uint8_t* keys = page + h * head_stride;
    uint8_t* values = values_of_page == nullptr ? keys + shape.head_bytes(format)
                                                : values_of_page + h * head_stride;
    for (size_t t = 0; t < num_tokens; ++t) round_row(k + t * stride + h * dim, dim, rows[t]);
    if (format == KvFormat::kF16) {
      store_columns(rows, num_tokens, dim, reinterpret_cast<uint16_t*>(keys) + first_token);
      for (size_t t = 0; t < num_tokens; ++t)
        round_row(v + t * stride + h * dim, dim,
                  reinterpret_cast<uint16_t*>(values) + (first_token + t) * dim);
      continue;
    }
    store_columns(rows, num_tokens, dim / 2, reinterpret_cast<uint32_t*>(keys) + first_token);
    for (size_t t = 0; t < num_tokens; ++t) {
      round_row(v + t * stride + h * dim, dim, rows[t]);
      const size_t token = first_token + t;
      uint16_t* out = reinterpret_cast<uint16_t*>(values) + token / 2 * 2 * dim + token % 2;
      for (size_t i = 0; i < dim; ++i) out[2 * i] = rows[t][i];
    }
  }
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
