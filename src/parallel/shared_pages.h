// Pages of keys and values that several ranks keep alike. Rank 0's cache decides (LeadingPages) where
// they lie and how wide they are; what is done to it is done to the others' copies of it
// (CacheCopies) before the next forward pass. Each has its share of the heads, or all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "kernels/kv_view.h"

namespace weft::parallel {

// A store whose reserved pages can be written in place, in any order.
class SharedPages : public kernels::KvStore {
 public:
  virtual kernels::KvFormat format() const = 0;  // kF16 or kBF16, of pages that are not narrow
  // Whether what follows holds for the sequence: not where older pages are narrow. Then tokens are
  // appended one after another, as to any store.
  virtual bool in_place(size_t /*sequence*/) const { return true; }
  // All pages that `sequence` has room for, stored or not. They may be written to.
  virtual std::span<const kernels::KvPage> reserved(size_t layer, size_t sequence) const = 0;
  // Of each sequence this store has every division()-th page alone; others are null in reserved(), and
  // append() passes over them. Where it is more than 1, nothing is in place.
  virtual size_t division() const { return 1; }
  // The first `length` tokens have been written in place.
  virtual void set_length(size_t layer, size_t sequence, size_t length) = 0;
};

// The one that decides.
class LeadingPages : public SharedPages {
 public:
  // Expires when this cache goes.
  virtual std::weak_ptr<const void> life() const = 0;
  // What has been done to it since the last call, apart from what forward passes store; at first,
  // what it is. Nothing has been stored before the first call.
  virtual std::vector<std::byte> take_changes() = 0;
};

// Another rank's copies of rank 0's caches.
class CacheCopies {
 public:
  virtual ~CacheCopies() = default;
  // The copy of cache `id`, with these changes; one that is not known yet is made.
  virtual SharedPages& apply(uint64_t id, std::span<const std::byte> changes) = 0;
  virtual void drop(uint64_t id) = 0;
};

// Pages in blocks that the caller names, for measuring and for tests. Memory becomes resident as it
// is written.
class FollowingPages final : public SharedPages {
 public:
  FollowingPages(size_t num_layers, const kernels::KvShape& shape, kernels::KvFormat format,
                 size_t num_blocks);  // kOutOfResources
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
