#include "text/foreign_kv.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/kv_quant.h"
#include "kernels/kv_transform.h"
#include "kernels/quantize.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;
using kernels::KvFormat;
using Format = ForeignKv::Format;

constexpr size_t kBlock = 32;  // features of KIVI's groups and of q8_0's and q4_0's blocks
constexpr size_t kCut = KvPolicy::kCutTokens;

float as_half(float x) { return kernels::half_to_float(kernels::float_to_half(x)); }

KvFormat format_of(size_t bits) {
  return bits == 16  ? KvFormat::kF16
         : bits == 8 ? KvFormat::kInt8
         : bits == 4 ? KvFormat::kInt4
                     : KvFormat::kInt2;
}

// q8_0 and q4_0 of ggml, there and back. n a multiple of 32.
void round_blocks(size_t bits, float* x, size_t n) {
  if (bits == 16) return;
  for (size_t b = 0; b < n; b += kBlock) {
    float most = 0;
    for (size_t i = b; i < b + kBlock; ++i)
      if (std::fabs(x[i]) > std::fabs(most)) most = x[i];
    const float step = bits == 8 ? std::fabs(most) / 127 : most / -8;
    const float inverse = step == 0 ? 0 : 1 / step, stored = as_half(step);
    for (size_t i = b; i < b + kBlock; ++i) {
      const float code = bits == 8 ? std::round(x[i] * inverse)
                                   : std::min(15.0f, std::floor(x[i] * inverse + 8.5f)) - 8;
      x[i] = code * stored;
    }
  }
}

// KIVI's asymmetric groups: n values, `stride` apart.
void round_group(size_t bits, float* x, size_t n, size_t stride) {
  float least = x[0], most = x[0];
  for (size_t i = 0; i < n; ++i) {
    least = std::min(least, x[i * stride]);
    most = std::max(most, x[i * stride]);
  }
  const auto largest = static_cast<float>((1u << bits) - 1);
  const float zero = as_half(least), step = as_half((most - least) / largest);
  for (size_t i = 0; i < n; ++i) {
    float& value = x[i * stride];
    const float code = step == 0 ? 0 : std::nearbyint((value - zero) / step);
    value = std::clamp(code, 0.0f, largest) * step + zero;
  }
}

void check(const ForeignKv& method, const kernels::KvShape& shape) {
  const bool blocks = method.format == Format::kBlocks;
  for (const size_t bits : {method.widths.k, method.widths.v})
    if ((bits != 16 && bits != 8 && bits != 4 && bits != 2) || (blocks && bits == 2))
      fail(ErrorKind::kInvalidInput, "a foreign KV format of {} bits; {} are possible", bits,
           blocks ? "16, 8 and 4" : "16, 8, 4 and 2");
  if (method.hadamard && !kernels::has_hadamard(shape.head_dim))
    fail(ErrorKind::kInvalidInput, "heads of {} values cannot be rotated; powers of two can",
         shape.head_dim);
  if (method.format != Format::kTwoTier && shape.head_dim % kBlock != 0)
    fail(ErrorKind::kInvalidInput, "heads of {} values are not whole groups of {}", shape.head_dim,
         kBlock);
}

}  // namespace

ForeignKvCache::ForeignKvCache(const ForeignKv& method, const kernels::KvShape& shape,
                               size_t num_layers, size_t length)
    : method_(method), shape_(shape), length_(length), layers_(num_layers) {
  check(method_, shape_);
}

ForeignKvCache::ForeignKvCache(const ForeignKvCache& other)
    : method_(other.method_), shape_(other.shape_), length_(other.length_), layers_(other.layers_) {
  for (Layer& l : layers_)
    for (size_t page = 0; page < l.pages.size(); ++page) l.pages[page].data = l.data[page].data();
}

ForeignKvCache& ForeignKvCache::operator=(const ForeignKvCache& other) {
  return *this = ForeignKvCache(other);
}

size_t ForeignKvCache::first_rounded() const {
  return method_.format == Format::kTwoTier ? kPageTokens : 0;
}

// Tokens [first_rounded, this) are rounded for a query at `position`.
size_t ForeignKvCache::end_rounded(size_t position) const {
  const size_t cut = position / kCut * kCut;
  const size_t end = std::max(first_rounded(), cut < kCut ? 0 : cut - kCut);
  if (method_.format != Format::kTwoTier) return end;
  // 16 bit as long as it lasts until the next cut.
  const size_t exact_bytes =
      layers_.size() * shape_.num_kv_heads * std::min(length_, cut + kCut) * 4 * shape_.head_dim;
  return exact_bytes <= method_.budget_bytes ? first_rounded() : end;
}

size_t ForeignKvCache::bytes(size_t length) const {
  const size_t dim = shape_.head_dim;
  const auto side = [&](size_t bits) {
    if (bits == 16) return 2 * dim;
    const size_t meta = method_.format == Format::kTwoTier ? 4 * shape_.num_groups()
                        : method_.format == Format::kKivi  ? 4 * dim / kBlock
                                                           : 2 * dim / kBlock;
    return dim * bits / 8 + meta;
  };
  const size_t rounded = method_.format == Format::kBlocks
                             ? length
                             : std::min(length, end_rounded(length == 0 ? 0 : length - 1)) -
                                   std::min(length, first_rounded());
  return layers_.size() * shape_.num_kv_heads *
         (rounded * (side(method_.widths.k) + side(method_.widths.v)) + (length - rounded) * 4 * dim);
}

size_t ForeignKvCache::piece_end(size_t, size_t, size_t position) const {
  return position / kCut * kCut + kCut;
}

void ForeignKvCache::append(size_t layer, size_t, size_t first_position, size_t num_tokens,
                            const float* k, const float* v, size_t stride) {
  Layer& l = layers_[layer];
  WEFT_ASSERT(l.length == first_position &&
              num_tokens <= piece_end(0, 0, first_position) - first_position);
  if (method_.format != Format::kBlocks) {
    const size_t end = std::min(end_rounded(first_position), l.length) / kPageTokens;
    for (size_t page = first_rounded() / kPageTokens + l.rounded; page < end; ++page, ++l.rounded)
      round_page(l, page);
  }
  const size_t head_bytes = shape_.head_bytes(KvFormat::kF16);
  const size_t width = shape_.num_kv_heads * shape_.head_dim;
  std::vector<float> keys(width), values(width);
  for (size_t i = 0; i < num_tokens; ++i) {
    const size_t position = first_position + i, page = position / kPageTokens;
    if (page == l.pages.size()) {
      l.data.emplace_back(shape_.page_bytes(KvFormat::kF16));
      l.pages.push_back({.data = l.data.back().data(), .head_stride = 2 * head_bytes});
    }
    std::copy_n(k + i * stride, width, keys.data());
    std::copy_n(v + i * stride, width, values.data());
    if (method_.format == Format::kBlocks) {
      round_blocks(method_.widths.k, keys.data(), width);
      round_blocks(method_.widths.v, values.data(), width);
    }
    kernels::write_kv(shape_, KvFormat::kF16, l.data[page].data(), 2 * head_bytes,
                      position % kPageTokens, 1, keys.data(), values.data(), width);
  }
  l.length += num_tokens;
}

void ForeignKvCache::round_page(Layer& layer, size_t page) {
  const size_t dim = shape_.head_dim, width = shape_.num_kv_heads * dim;
  const KvWidths w = method_.widths;
  kernels::KvPage from = layer.pages[page];
  std::vector<uint8_t> codes, meta;
  if (method_.format == Format::kTwoTier && w != KvWidths{}) {
    const KvFormat k_format = format_of(w.k), v_format = format_of(w.v);
    codes.resize(shape_.page_bytes(k_format, v_format));
    meta.resize(shape_.meta_page_bytes());
    const kernels::KvPageOut out{
        .data = codes.data(),
        .head_stride = shape_.head_bytes(k_format) + shape_.head_bytes(v_format),
        .k_format = k_format,
        .v_format = v_format,
        .meta = meta.data(),
        .meta_stride = shape_.meta_head_bytes()};
    if (const auto fault = kernels::quantize_kv_page(shape_, from, out))
      fail(ErrorKind::kInvalidInput, "position {}: a {} is not a number",
           page * kPageTokens + fault->token, fault->is_key ? "key" : "value");
    from = out;
  }
  std::vector<float> k(kPageTokens * width), v(k.size()), head_k(kPageTokens * dim), head_v(head_k);
  for (size_t h = 0; h < shape_.num_kv_heads; ++h) {
    kernels::dequantize_kv_page(shape_, from, h, head_k.data(), head_v.data());
    for (size_t t = 0; t < kPageTokens; ++t) {
      std::copy_n(head_k.data() + t * dim, dim, k.data() + t * width + h * dim);
      std::copy_n(head_v.data() + t * dim, dim, v.data() + t * width + h * dim);
    }
  }
  if (method_.format == Format::kKivi) {
    if (w.k < 16)
      for (size_t i = 0; i < width; ++i) round_group(w.k, k.data() + i, kPageTokens, width);
    if (w.v < 16)
      for (size_t i = 0; i < v.size(); i += kBlock) round_group(w.v, v.data() + i, kBlock, 1);
  }
  kernels::write_kv(shape_, KvFormat::kF16, layer.data[page].data(),
                    2 * shape_.head_bytes(KvFormat::kF16), 0, kPageTokens, k.data(), v.data(), width);
}

kernels::KvView ForeignKvCache::view(size_t layer, size_t) const {
  return {.pages = layers_[layer].pages, .length = layers_[layer].length};
}

}  // namespace weft::text
