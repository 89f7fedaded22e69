// Keys and values in 8, 4 and 2 bit: the quantiser of PM-KVQ (arXiv 2505.18610, eq. 1-3), page by
// page. The layouts are drawn in kv_view.h.
//
//   z = min(x), s = (max(x) - z) / 255, c = round((x - z) / s)      per token, head, side, group
//
// z is rounded down to f16 and s up, and codes are made with these rounded ones. So no code is
// clipped, and |c s + z - x| <= s / 2 in each width (with that width's step). Equal values come
// back exactly where f16 holds them. The smallest s is f16's, 2^-24: a group that spans less than
// 255 * 2^-24 is still within 85 * 2^-25 of the truth in int2.
//
// A narrower width has D = 17 (8 -> 4) or 5 (4 -> 2) times the step, the same z, and codes nearest
// to c / D: a right shift with the right offset, without ties. Thresholds of the coarse grid are
// also the fine one's, so 8 -> 4 -> 2, 8 -> 2 and 2 at once give the same codes.
//
// Every instruction set writes the same bytes. Pure functions, no allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/kv_view.h"

namespace weft::kernels {

// A KvPage to write.
struct KvPageOut {
  uint8_t* data = nullptr;
  size_t head_stride = 0;
  KvFormat k_format = KvFormat::kF16, v_format = KvFormat::kF16;
  uint8_t* meta = nullptr;
  size_t meta_stride = 0;
  uint8_t* values = nullptr;

  operator KvPage() const {
    return {data, head_stride, k_format, v_format, meta, meta_stride, values};
  }
  uint8_t* head_values(const KvShape& shape, size_t head) const {
    return (values == nullptr ? data + shape.head_bytes(k_format) : values) + head * head_stride;
  }
};

// The first value of a page that is no number.
struct KvFault {
  bool is_key = false;
  size_t head = 0, token = 0, feature = 0;
};

// Quantises a full page in f16 or bf16. A side of `to` that has `from`'s format is copied; metadata
// is written for the quantised ones. Values beyond +-65504 (bf16) become +-65504. Where a value is
// NaN or infinite, says which, and `to` holds nothing of use. The pages must not overlap.
[[nodiscard]] std::optional<KvFault> quantize_kv_page(const KvShape& shape, const KvPage& from,
                                                      const KvPageOut& to);

// Narrows a page's codes: each side to the same or a narrower int format; a 16-bit side stays.
// Metadata stays valid and is not touched (`to.meta` is not read).
//
// The pages may overlap if every head of `to` (where values lie apart: its keys, and its values)
// begins at or before the same head of `from` and ends before the next head of `from` begins: the
// write position trails the read position. So the pages of one slot, narrowed in order, compact in
// place.
void shrink_kv_page(const KvShape& shape, const KvPage& from, const KvPageOut& to);

// One head of a page, of any format, as attention sees it. k, v: (kPageTokens, head_dim), either
// may be null. The reference path: plain loops.
void dequantize_kv_page(const KvShape& shape, const KvPage& page, size_t head, float* k, float* v);

}  // namespace weft::kernels
