// The paged KV cache: sequences of pages (kernels::kPageTokens tokens each, one page per layer),
// taken from one pool of fixed size, shared between sequences by reference count (prefix reuse) and
// copied on write. Each page carries its own format, so that a storage policy may later narrow some
// of them.
//
// A sequence writes only where it has reserved room: reserve() is where pages are taken from the
// pool and shared ones copied, so append() cannot fail. Room ends with a fork or truncate of the
// sequence; pages already taken stay with it and serve the next reserve().
//
// Pool memory becomes resident when it is first written, some hundred tokens' worth at a time.
// Steady-state decode allocates nothing. Owned and used by one engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
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
  // A sequence that begins with the first `num_tokens` (<= length) of `source`. It shares all their
  // pages and takes none; whoever first reserves room in a shared last page gets a copy of it.
  SequenceId fork(SequenceId source, size_t num_tokens);
  void release(SequenceId sequence);
  // Drops tokens from the end (rejected drafts, edited chats), down to `num_tokens` <= length.
  void truncate(SequenceId sequence, size_t num_tokens);

  // Room for `num_tokens` more; false (and nothing changed) when the pool has too few free pages.
  [[nodiscard]] bool reserve(SequenceId sequence, size_t num_tokens);

  size_t length(SequenceId sequence) const;  // tokens that all layers have
  size_t free_tokens() const;                // in whole free pages
  size_t capacity_tokens() const;
  size_t bytes() const;  // of the pool, resident or not

  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override;
  kernels::KvView view(size_t layer, size_t sequence) const override;

 private:
  struct Sequence {
    bool live = false;
    size_t room = 0;                     // positions below it may be written
    std::vector<size_t> layer_length;    // tokens stored, per layer
    std::vector<uint32_t> blocks;        // block of each page
    std::vector<kernels::KvPage> pages;  // (num_layers, pages_per_layer); blocks.size() are set
    size_t pages_per_layer = 0;
  };

  Sequence& get(SequenceId sequence);
  const Sequence& get(SequenceId sequence) const;
  uint8_t* page(size_t layer, uint32_t block);  // its first head
  uint32_t take_block();
  void drop_block(uint32_t number);
  void grow_page_table(Sequence& s, size_t num_pages);
  void set_page(Sequence& s, size_t index, uint32_t block);
  void keep_pages(Sequence& s, size_t num_pages);

  KvCacheOptions options_;
  size_t page_bytes_ = 0;   // one layer
  size_t block_bytes_ = 0;  // all layers
  size_t head_bytes_ = 0;   // of a page: one head's keys and values
  size_t head_stride_ = 0;  // from head to head
  // (runs of kRunBlocks blocks, num_layers, num_kv_heads, block of the run, keys and values):
  // attention walks along one head of one layer, and memory becomes resident run by run.
  Buffer pool_;
  std::vector<uint32_t> references_;  // per block
  std::vector<uint32_t> free_;        // stack of block numbers
  std::vector<Sequence> sequences_;
  std::vector<SequenceId> unused_;  // slots of sequences_ to use again
};

}  // namespace weft::text
