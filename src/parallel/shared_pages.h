// Pages of keys and values that several ranks keep alike: rank 0's cache decides which block a page
// lies in (text::KvCache), the others follow with memory of their own (FollowingPages). Each has
// its share of the heads, or all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "kernels/kv_view.h"

namespace weft::parallel {

// A store whose reserved pages can be written in place, in any order.
class SharedPages : public kernels::KvStore {
 public:
  virtual kernels::KvFormat format() const = 0;  // kF16 or kBF16, of all pages
  // All pages that `sequence` has room for, stored or not. They may be written to.
  virtual std::span<const kernels::KvPage> reserved(size_t layer, size_t sequence) const = 0;
  // The first `length` tokens have been written in place.
  virtual void set_length(size_t layer, size_t sequence, size_t length) = 0;
};

struct BlockCopy {
  uint32_t from = 0, to = 0;
};

// The one that decides.
class LeadingPages : public SharedPages {
 public:
  virtual std::span<const uint32_t> blocks(size_t sequence) const = 0;  // of its pages, in order
  virtual size_t num_blocks() const = 0;                                // of all sequences
  // Blocks that were copied since the last call.
  virtual std::vector<BlockCopy> take_copies() = 0;
};

// Those that follow. Memory becomes resident as it is written.
class FollowingPages final : public SharedPages {
 public:
  FollowingPages(size_t num_layers, const kernels::KvShape& shape, kernels::KvFormat format,
                 size_t num_blocks);  // kOutOfResources
  void copy(BlockCopy blocks);
  // The sequence has these blocks and `length` tokens in them.
  void set_sequence(size_t sequence, std::span<const uint32_t> blocks, size_t length);

  kernels::KvFormat format() const override { return format_; }
  std::span<const kernels::KvPage> reserved(size_t layer, size_t sequence) const override;
  void set_length(size_t layer, size_t sequence, size_t length) override;
  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override;
  kernels::KvView view(size_t layer, size_t sequence) const override;

 private:
  struct Sequence {
    std::vector<kernels::KvPage> pages;  // (num_layers, num_pages)
    std::vector<size_t> length;          // by layer
    size_t num_pages = 0;
  };
  uint8_t* page(size_t layer, uint32_t block);

  size_t num_layers_, num_blocks_;
  kernels::KvShape shape_;
  kernels::KvFormat format_;
  Buffer memory_;  // (num_layers, num_blocks, num_kv_heads, keys and values)
  std::vector<Sequence> sequences_;
};

}  // namespace weft::parallel
