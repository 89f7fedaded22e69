// The paged KV cache: sequences of pages (kernels::kPageTokens tokens each, one page per layer), taken
// from one pool of fixed size, shared between sequences by reference count (prefix reuse) and copied on
// write. How a page is stored is its KvPolicy's business.
//
// Owned and used by one engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "kernels/kv_view.h"

namespace weft::text {

using SequenceId = size_t;

struct KvCacheOptions {
  size_t num_layers = 0;
  kernels::KvShape shape;
  kernels::KvFormat format = kernels::KvFormat::kF16;
  size_t capacity_tokens = 0;  // rounded up to whole pages; shared by all sequences
};

class KvCache final : public kernels::KvStore {
 public:
  explicit KvCache(const KvCacheOptions& options);  // kOutOfResources says how much is needed

  SequenceId create();
  // A sequence that begins with the first `num_tokens` of `source`, sharing its whole pages.
  SequenceId fork(SequenceId source, size_t num_tokens);
  void release(SequenceId sequence);
  // Drops tokens from the end (rejected drafts, edited chats).
  void truncate(SequenceId sequence, size_t num_tokens);

  // Room for `num_tokens` more; false (and nothing changed) when the pool has too few free pages.
  [[nodiscard]] bool reserve(SequenceId sequence, size_t num_tokens);

  size_t length(SequenceId sequence) const;
  size_t free_tokens() const;      // in whole free pages
  size_t capacity_tokens() const;
  size_t bytes() const;

  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override;
  kernels::KvView view(size_t layer, size_t sequence) const override;

 private:
  struct Sequence;
  KvCacheOptions options_;
  size_t page_bytes_ = 0;           // one layer
  size_t block_bytes_ = 0;          // all layers
  Buffer pool_;                     // (num_blocks, num_layers, page)
  std::vector<uint32_t> references_;  // per block
  std::vector<uint32_t> free_;        // stack of block numbers
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

}  // namespace weft::text
