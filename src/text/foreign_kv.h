// How others keep keys and values in few bits, to compare PM-KVQ with: values are rounded as they
// would round them and held in 16 bit, so that their quality is measured and their speed is not.
// Bytes are what the stored numbers would take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kv_view.h"
#include "text/kv_policy.h"

namespace weft::text {

struct ForeignKv {
  enum class Format : uint8_t {
    kKivi,     // KIVI (arXiv 2402.02750): K per feature over 32 tokens, V per token over 32 features;
               // newest tokens exact
    kBlocks,   // q8_0 or q4_0 of ggml: blocks of 32 features, no token exact
    kTwoTier,  // PM-KVQ's pages, in 16 bit while the budget lasts and then in the final widths
  };
  Format format = Format::kBlocks;
  KvWidths widths = {8, 8};
  bool hadamard = false;    // heads are rotated before they are rounded
  size_t budget_bytes = 0;  // kTwoTier
};

// One sequence (handle 0) in such a format. Older tokens are rounded at multiples of
// KvPolicy::kCutTokens, as PM-KVQ's are narrowed: what a query sees depends on its position alone.
class ForeignKvCache final : public kernels::KvStore {
 public:
  // kInvalidInput: widths other than 16, 8, 4, 2 (16, 8, 4 for kBlocks), or heads that are no
  // multiple of 32 or cannot be rotated. `length`: tokens to come.
  ForeignKvCache(const ForeignKv& method, const kernels::KvShape& shape, size_t num_layers,
                 size_t length);
  ForeignKvCache(const ForeignKvCache& other);
  ForeignKvCache& operator=(const ForeignKvCache& other);
  ForeignKvCache(ForeignKvCache&&) = default;
  ForeignKvCache& operator=(ForeignKvCache&&) = default;
  ~ForeignKvCache() override = default;

  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override;
  kernels::KvView view(size_t layer, size_t sequence) const override;
  size_t piece_end(size_t layer, size_t sequence, size_t position) const override;
  kernels::HeadTransform transform(size_t /*layer*/, size_t /*sequence*/) const override {
    return {.rotate = method_.hadamard};
  }

  size_t bytes(size_t length) const;  // once so many tokens are stored

 private:
  struct Layer {
    size_t length = 0, rounded = 0;  // tokens; pages from first_rounded() on
    std::vector<std::vector<uint8_t>> data;
    std::vector<kernels::KvPage> pages;
  };
  size_t first_rounded() const;
  size_t end_rounded(size_t position) const;
  void round_page(Layer& layer, size_t page);

  ForeignKv method_;
  kernels::KvShape shape_;
  size_t length_;
  std::vector<Layer> layers_;
};

}  // namespace weft::text
