// The keys and values that attention reads: pages of one layer of one sequence. text::KvCache makes
// the view and owns the pages; models pass it on; kernels::attention reads every format.
//
// A page holds kPageTokens tokens of all KV heads of one layer: for each head its keys and then its
// values, 2 * head_bytes at a stretch. The heads of a page lie `head_stride` apart, so that the
// cache can put one head's next page behind it and attention over one head reads on and on. Of a
// head:
//   f16   K: (head_dim, kPageTokens)        a row = one feature of all tokens, so that scores of 16
//         V: (kPageTokens, head_dim)        tokens are one vector and need no horizontal sum
//   bf16  K: (head_dim / 2, kPageTokens, 2) pairs of features, V: (kPageTokens / 2, head_dim, 2)
//         pairs of tokens: the operand order of the bf16 dot-product instruction
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace weft::kernels {

inline constexpr size_t kPageTokens = 32;

enum class KvFormat : uint8_t { kF16, kBF16 };

struct KvShape {
  size_t num_kv_heads = 0;
  size_t head_dim = 0;  // a multiple of 16
  // Bytes of one head's keys (or values) in a page, and of all heads' keys and values.
  size_t head_bytes(KvFormat) const { return kPageTokens * head_dim * 2; }
  size_t page_bytes(KvFormat f) const { return 2 * num_kv_heads * head_bytes(f); }
};

// One page of one layer. K of head h starts at h * head_stride, V head_bytes after it.
struct KvPage {
  const uint8_t* data = nullptr;
  size_t head_stride = 0;
  KvFormat format = KvFormat::kF16;
};

struct KvView {
  std::span<const KvPage> pages;  // token t is in pages[t / kPageTokens]
  size_t length = 0;              // tokens stored
};

// Rounds keys and values of `num_tokens` tokens into places first_token ... of one page (nearest
// even; f16 saturates at +-65504, so that an outlier spoils one score and not the whole sequence).
// k, v: (num_tokens, num_kv_heads, head_dim) f32, `stride` values from token to token.
void write_kv(const KvShape& shape, KvFormat format, uint8_t* page, size_t head_stride,
              size_t first_token, size_t num_tokens, const float* k, const float* v, size_t stride);

// What a model needs of a cache, for one forward pass over several sequences.
class KvStore {
 public:
  virtual ~KvStore() = default;
  // Stores k, v (num_tokens, num_kv_heads * head_dim) f32, RoPE applied, `stride` values from token
  // to token, of `sequence` at positions first_position ... in `layer`. Room has been reserved
  // before. Called for each layer once per forward pass, from the engine thread (threads do not
  // race on one sequence). One thread is enough: it is a thousandth of the pass.
  virtual void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
                      const float* k, const float* v, size_t stride) = 0;
  // Valid until the next append, reserve or release of that sequence.
  virtual KvView view(size_t layer, size_t sequence) const = 0;
};

}  // namespace weft::kernels
