// The keys and values that attention reads: pages of one layer of one sequence. text::KvCache makes
// the view and owns the pages; models pass it on; kernels::attention reads every format.
//
// A page holds kPageTokens tokens of all KV heads of one layer: for each head its keys and then its
// values. The heads of a page lie `head_stride` apart, so that the cache can put one head's next
// page behind it and attention over one head reads on and on. Of a head:
//   f16   K: (head_dim, kPageTokens)        a row = one feature of all tokens, so that scores of 16
//         V: (kPageTokens, head_dim)        tokens are one vector and need no horizontal sum
//   bf16  K: (head_dim / 2, kPageTokens, 2) pairs of features, V: (kPageTokens / 2, head_dim, 2)
//         pairs of tokens: the operand order of the bf16 dot-product instruction
//   int8  K: (2, head_dim / 4, 16, 4)       16 tokens x 4 features, V: (head_dim / 16, 8, 16, 4)
//         16 features x 4 tokens: chunks of 64 bytes, the operand order of the int8 dot product
//   int4, int2: 2 or 4 chunks that follow each other in int8 share one: byte i of the first in the
//         lowest bits of byte i, and so on upwards (kv_quant.h shrinks one into the other in place)
// K and V of a page may have different formats.
//
// An int format holds codes c = 0 ... 2^bits - 1 of x = c * s + z, where s and z belong to one
// token, head, side and group of features (KvShape::group_size()). They are metadata, apart from
// the codes: for each head K and then V, (head_dim / group, 2, kPageTokens) f16, s before z. The
// stored s is that of int8; the step of int4 is 17 s, that of int2 85 s, so shrinking rewrites no
// metadata.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace weft::kernels {

inline constexpr size_t kPageTokens = 32;

enum class KvFormat : uint8_t { kF16, kBF16, kInt8, kInt4, kInt2 };

constexpr size_t bits(KvFormat f) {
  return f == KvFormat::kInt8 ? 8 : f == KvFormat::kInt4 ? 4 : f == KvFormat::kInt2 ? 2 : 16;
}
constexpr bool is_quantized(KvFormat f) { return bits(f) < 16; }
// What the stored (int8) s is multiplied by.
constexpr float step_factor(KvFormat f) {
  return f == KvFormat::kInt4 ? 17.0f : f == KvFormat::kInt2 ? 85.0f : 1.0f;
}
const char* name(KvFormat f);  // "f16", "int8", ...

struct KvShape {
  size_t num_kv_heads = 0;
  size_t head_dim = 0;  // a multiple of 16
  size_t group = 0;     // features that share s and z: a divisor of head_dim; 0 = group_size()'s

  // The default is the largest divisor of head_dim up to 128 that is a multiple of 16.
  size_t group_size() const;
  size_t num_groups() const { return head_dim / group_size(); }
  // Bytes of one head's keys (or values) in a page, and of all heads' keys and values.
  size_t head_bytes(KvFormat f) const { return kPageTokens * head_dim * bits(f) / 8; }
  size_t page_bytes(KvFormat k, KvFormat v) const {
    return num_kv_heads * (head_bytes(k) + head_bytes(v));
  }
  size_t page_bytes(KvFormat f) const { return page_bytes(f, f); }
  // Bytes of metadata of one head in a page, K's and V's, and of all heads.
  size_t meta_head_bytes() const { return 2 * num_groups() * 2 * kPageTokens * sizeof(uint16_t); }
  size_t meta_page_bytes() const { return num_kv_heads * meta_head_bytes(); }
};

// One page of one layer. K of head h starts at h * head_stride, V right after it or as far from
// `values`.
struct KvPage {
  const uint8_t* data = nullptr;
  size_t head_stride = 0;
  KvFormat k_format = KvFormat::kF16, v_format = KvFormat::kF16;
  const uint8_t* meta = nullptr;  // where a side is quantised
  size_t meta_stride = 0;         // from head to head
  const uint8_t* values = nullptr;  // null: right after the keys

  const uint8_t* head_keys(size_t head) const { return data + head * head_stride; }
  const uint8_t* head_values(const KvShape& shape, size_t head) const {
    const uint8_t* const first = values == nullptr ? data + shape.head_bytes(k_format) : values;
    return first + head * head_stride;
  }
};

struct KvView {
  std::span<const KvPage> pages;  // token t is in pages[t / kPageTokens]
  size_t length = 0;              // tokens stored
};

// Rounds keys and values of `num_tokens` tokens into places first_token ... of one page (nearest
// even; f16 saturates at +-65504, so that an outlier spoils one score and not the whole sequence).
// `format`: kF16 or kBF16; kv_quant.h makes the others from these.
// k, v: (num_tokens, num_kv_heads, head_dim) f32, `stride` values from token to token. `values`: as
// KvPage's.
void write_kv(const KvShape& shape, KvFormat format, uint8_t* page, size_t head_stride,
              size_t first_token, size_t num_tokens, const float* k, const float* v, size_t stride,
              uint8_t* values = nullptr);

// What is done to keys, values and queries after RoPE, before they are stored or used, and to what
// attention gives (kv_transform.h): it changes no result but by rounding, and makes narrow keys and
// values better ones.
enum class KvTransform : uint8_t { kNone, kHadamard, kSmooth, kSmoothHadamard };

constexpr bool rotates(KvTransform t) {
  return t == KvTransform::kHadamard || t == KvTransform::kSmoothHadamard;
}
constexpr bool smooths(KvTransform t) {
  return t == KvTransform::kSmooth || t == KvTransform::kSmoothHadamard;
}

// The same for one layer of one sequence. Factors (num_kv_heads, head_dim), or null: each pair's
// product is 1. They come before the rotation.
struct HeadTransform {
  bool rotate = false;
  const float* query_factors = nullptr;
  const float* key_factors = nullptr;

  bool any() const { return rotate || query_factors != nullptr; }
};

// What a model needs of a cache, for one forward pass over several sequences.
class KvStore {
 public:
  virtual ~KvStore() = default;
  // Stores k, v (num_tokens, num_kv_heads * head_dim) f32, RoPE applied, `stride` values from token
  // to token, of `sequence` at positions first_position ... in `layer`. Room has been reserved
  // before. Called for each layer once per forward pass and piece, from the engine thread (threads do
  // not race on one sequence). One thread is enough: it is a thousandth of the pass.
  virtual void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
                      const float* k, const float* v, size_t stride) = 0;
  // The queries of the tokens just appended, (num_tokens, num_heads * head_dim) f32, transformed as
  // the keys are; for who calibrates.
  virtual void note_queries(size_t /*layer*/, size_t /*sequence*/, size_t /*num_tokens*/,
                            const float* /*q*/, size_t /*stride*/) {}
  // Valid until the next append, reserve or release of that sequence.
  virtual KvView view(size_t layer, size_t sequence) const = 0;
  virtual HeadTransform transform(size_t /*layer*/, size_t /*sequence*/) const { return {}; }
  // Where a piece that begins at `position` ends at the latest: what is stored of earlier tokens may
  // change there, so that the tokens before it attend first and those from it on are appended then.
  virtual size_t piece_end(size_t /*layer*/, size_t /*sequence*/, size_t /*position*/) const {
    return std::numeric_limits<size_t>::max();
  }
};

}  // namespace weft::kernels
