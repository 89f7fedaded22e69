// The paged KV cache: sequences of pages (kernels::kPageTokens tokens each, one page per layer),
// taken from a pool of fixed size, shared between sequences by reference count (prefix reuse) and
// copied on write. Each page carries its own format: under a KvPolicy older pages become narrower
// (text/pm_kvq.h).
//
// A sequence writes only where it has reserved room: reserve() is where pages are taken from the
// pool and shared ones copied, so append() cannot fail. Room ends with a fork or truncate of the
// sequence; pages already taken stay with it and serve the next reserve().
//
// Pool memory becomes resident when it is first written, some hundred tokens' worth at a time.
// Steady-state decode allocates nothing. Owned and used by one engine thread; a sequence may move
// to another cache over the same pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/kv_view.h"
#include "parallel/shared_pages.h"
#include "text/kv_journal.h"
#include "text/kv_pool.h"
#include "text/pm_kvq.h"

namespace weft::text {

using SequenceId = size_t;

// What a cache knows of a sequence. Its blocks are in the pool: it must go back to a cache.
struct KvSequence {
  bool live = false;
  size_t room = 0;                     // positions below it may be written
  std::vector<size_t> layer_length;    // tokens stored, per layer
  std::vector<KvBlock> blocks;         // block of each page
  std::vector<kernels::KvPage> pages;  // (num_layers, pages_per_layer); blocks.size() are set
  size_t pages_per_layer = 0;
  std::vector<KvPool::PrefixNode> kept;  // of the first blocks, those kept as a prefix
  KvPool::PrefixNode before;             // what the first of them follows
  bool keeps = true;                     // false: what came before is not kept any more
  // Under a policy, once pages may be narrow: then `blocks` are places for cells.
  std::optional<NarrowPages> narrow;
  bool forked = false;  // its narrow blocks may be another's too
  std::optional<KvBadValue> bad_value;
  uint64_t last_use = 0;  // a count of reserve() calls
  std::shared_ptr<const KvPolicy> policy;  // the pool's or its own; null: 16 bit
};

class KvCache final : public parallel::LeadingPages {
 public:
  explicit KvCache(std::shared_ptr<KvPool> pool);
  explicit KvCache(const KvCacheOptions& options) : KvCache(std::make_shared<KvPool>(options)) {}
  ~KvCache() override;
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  SequenceId create() { return create(options_.policy); }
  // With widths of its own, and none to give under pressure: kDirect's.
  SequenceId create(std::shared_ptr<const KvPolicy> policy);
  // A sequence that begins with the first `num_tokens` (<= length) of `source`. It shares all their
  // pages and takes none; whoever first reserves room in a shared last page gets a copy of it. With
  // narrow pages: a copy of all of them, and as truncate() it may begin with less.
  SequenceId fork(SequenceId source, size_t num_tokens);
  void release(SequenceId sequence);
  // Drops tokens from the end (rejected drafts, edited chats), down to `num_tokens` <= length.
  // Gives how many are left. They are as many, except that narrow pages of tokens that a sequence
  // of that length has in 16 bit cannot come back: then the first page is left, and the rest is to
  // be read again.
  size_t truncate(SequenceId sequence, size_t num_tokens);

  // A sequence that begins with what the pool keeps of `tokens`, in whole pages.
  SequenceId create_from_prefix(uint64_t scope, std::span<const Token> tokens);
  // Keeps the sequence's full pages for create_from_prefix(). `tokens`: those stored, at least.
  void keep_prefix(SequenceId sequence, uint64_t scope, std::span<const Token> tokens);

  // Room for `num_tokens` more; false (and nothing changed) when the pool has too few free pages, or
  // would have fewer than `keep_free_tokens` left.
  // Under a policy at most max_piece() at a time. kPressure: where room runs short, sequences of this
  // cache are narrowed until there is some; their views change.
  [[nodiscard]] bool reserve(SequenceId sequence, size_t num_tokens, size_t keep_free_tokens = 0);
  size_t max_piece(SequenceId sequence) const;

  // Out of this cache, into another over the same pool. No page is copied.
  KvSequence take_out(SequenceId sequence);
  SequenceId put_in(KvSequence sequence);

  size_t length(SequenceId sequence) const;  // tokens that all layers have
  size_t free_tokens() const { return pool_->free_tokens(); }
  size_t capacity_tokens() const { return pool_->capacity_tokens(); }
  size_t bytes() const { return pool_->bytes(); }

  // kPressure: what narrowing all sequences of this cache to the end would give back, in tokens of 16
  // bit.
  size_t reclaimable_tokens() const;

  // What a sequence, or all of this cache, takes by widths, in true bytes.
  KvUsage usage(SequenceId sequence) const;
  KvUsage usage() const;
  KvWidths widths(size_t layer, SequenceId sequence) const;  // of the layer's older pages
  // A key or value that is NaN was stored and met the quantiser: the sequence is worthless.
  std::optional<KvBadValue> bad_value(SequenceId sequence) const { return get(sequence).bad_value; }
  std::string audit() const;  // of the narrow pages; empty, or what is wrong
  const std::shared_ptr<KvPool>& pool() const { return pool_; }

  // Where another process computes over the pool's memory, which it maps (it needs to know blocks()).
  // Here: it has stored the tokens below `length` in all layers, where room was reserved.
  void stored_elsewhere(SequenceId sequence, size_t length);
  // There: `sequence`, any number, is the one in these blocks, with so many tokens in it and room
  // below `room`. Its pool allocates nothing.
  void follow(SequenceId sequence, std::span<const KvBlock> blocks, size_t stored, size_t room);

  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override;
  kernels::KvView view(size_t layer, size_t sequence) const override;
  kernels::HeadTransform transform(size_t layer, size_t sequence) const override {
    const KvPolicy* const policy = get(sequence).policy.get();
    return policy == nullptr ? kernels::HeadTransform{} : policy->head_transform(layer);
  }
  size_t piece_end(size_t layer, size_t sequence, size_t position) const override;

  // For ranks that compute with pages of their own, and processes that compute with the same ones.
  kernels::KvFormat format() const override { return options_.format; }
  bool in_place(size_t sequence) const override {
    return options_.division == 1 && !get(sequence).narrow;
  }
  size_t division() const override { return options_.division; }
  std::span<const kernels::KvPage> reserved(size_t layer, size_t sequence) const override;
  void set_length(size_t layer, size_t sequence, size_t length) override;
  std::span<const KvBlock> blocks(SequenceId sequence) const { return get(sequence).blocks; }
  std::weak_ptr<const void> life() const override { return life_; }
  std::vector<std::byte> take_changes() override;
  // In a copy: the next sequence that is created gets this number, which none has.
  void number_next(SequenceId sequence);

 private:
  KvSequence& get(SequenceId sequence);
  const KvSequence& get(SequenceId sequence) const;
  SequenceId unused_slot();
  SequenceId begin_sequence(std::shared_ptr<const KvPolicy> policy);
  size_t cut(SequenceId sequence, size_t num_tokens);
  bool find_room(SequenceId sequence, size_t num_tokens, size_t keep_free_tokens);
  void grow_page_table(KvSequence& s, size_t num_pages);
  void set_page(KvSequence& s, size_t index, KvBlock block);
  void keep_pages(KvSequence& s, size_t num_pages);
  bool has_page(size_t index) const { return index % options_.division == options_.part; }
  bool reserve_plain(KvSequence& s, size_t stored, size_t num_tokens, size_t keep_free_tokens);
  bool reserve_narrow(KvSequence& s, size_t stored, size_t num_tokens, size_t keep_free_tokens);
  bool reserve_pressed(KvSequence& s, size_t stored, size_t num_tokens, size_t keep_free_tokens);
  bool relieve();
  bool can_relieve(const KvSequence& s) const;
  bool narrow_once(KvSequence& s);
  bool own_all_but(KvSequence& s, size_t num_shared);
  bool own_page(KvSequence& s, size_t page);
  bool own_copies(KvSequence& s);
  NarrowPages::Place place(KvSequence& s, size_t layer);

  std::shared_ptr<KvPool> pool_;
  const KvCacheOptions& options_;  // the pool's
  std::vector<KvSequence> sequences_;
  std::vector<SequenceId> unused_;  // slots of sequences_ to use again
  std::vector<KvBlock> taken_;      // of one reserve()
  std::vector<uint8_t> scratch_;    // a page on its way to be narrow
  uint64_t clock_ = 0;
  std::shared_ptr<const void> life_ = std::make_shared<char>();
  std::unique_ptr<KvJournal> journal_;  // where there are copies; they have no sequence taken out or put in
};

}  // namespace weft::text
