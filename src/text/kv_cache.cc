#include "text/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;

size_t pages_for(size_t tokens) { return tokens / kPageTokens + (tokens % kPageTokens != 0); }

}  // namespace

KvCache::KvCache(std::shared_ptr<KvPool> pool)
    : pool_(std::move(pool)), options_(pool_->options()) {}

KvCache::~KvCache() {
  for (const KvSequence& s : sequences_)
    if (s.live) pool_->drop(s.blocks);
}

SequenceId KvCache::unused_slot() {
  if (unused_.empty()) {
    sequences_.emplace_back();
    unused_.reserve(sequences_.size());
    return sequences_.size() - 1;
  }
  const SequenceId id = unused_.back();
  unused_.pop_back();
  return id;
}

SequenceId KvCache::create() {
  const SequenceId id = unused_slot();
  KvSequence& s = sequences_[id];
  s.live = true;
  s.room = 0;
  s.layer_length.assign(options_.num_layers, 0);
  s.kept.clear();
  s.before = pool_->root();
  s.keeps = true;
  return id;
}

SequenceId KvCache::fork(SequenceId source, size_t num_tokens) {
  const SequenceId id = create();
  KvSequence& from = get(source);
  KvSequence& s = get(id);
  WEFT_ASSERT(num_tokens <= length(source));
  const size_t num_pages = pages_for(num_tokens);
  grow_page_table(s, num_pages);
  pool_->share(std::span(from.blocks).first(num_pages));
  for (size_t page = 0; page < num_pages; ++page) set_page(s, page, from.blocks[page]);
  std::fill(s.layer_length.begin(), s.layer_length.end(), num_tokens);
  const size_t num_kept = std::min(from.kept.size(), num_tokens / kPageTokens);
  s.kept.assign(from.kept.begin(), from.kept.begin() + static_cast<ptrdiff_t>(num_kept));
  s.before = from.before;
  s.keeps = from.keeps;
  from.room = 0;
  return id;
}

void KvCache::release(SequenceId sequence) {
  KvSequence& s = get(sequence);
  keep_pages(s, 0);
  s.live = false;
  unused_.push_back(sequence);
}

void KvCache::truncate(SequenceId sequence, size_t num_tokens) {
  KvSequence& s = get(sequence);
  WEFT_ASSERT(num_tokens <= length(sequence));
  keep_pages(s, pages_for(num_tokens));
  s.kept.resize(std::min(s.kept.size(), num_tokens / kPageTokens));
  std::fill(s.layer_length.begin(), s.layer_length.end(), num_tokens);
  s.room = 0;
}

SequenceId KvCache::create_from_prefix(uint64_t scope, std::span<const Token> tokens) {
  const SequenceId id = create();
  KvSequence& s = get(id);
  taken_.clear();
  pool_->find_prefix(scope, tokens, taken_, s.kept);
  grow_page_table(s, taken_.size());
  for (const KvBlock block : taken_) set_page(s, s.blocks.size(), block);
  std::fill(s.layer_length.begin(), s.layer_length.end(), taken_.size() * kPageTokens);
  return id;
}

void KvCache::keep_prefix(SequenceId sequence, uint64_t scope, std::span<const Token> tokens) {
  KvSequence& s = get(sequence);
  const size_t num_full = length(sequence) / kPageTokens;
  WEFT_ASSERT(tokens.size() >= num_full * kPageTokens);
  while (s.keeps && s.kept.size() < num_full) {
    const size_t page = s.kept.size();
    const auto kept = pool_->keep(scope, page == 0 ? s.before : s.kept.back(),
                                  tokens.subspan(page * kPageTokens, kPageTokens), s.blocks[page]);
    s.keeps = kept.has_value();
    if (!kept) return;
    if (kept->block != s.blocks[page]) set_page(s, page, kept->block);
    s.kept.push_back(kept->node);
  }
}

bool KvCache::reserve(SequenceId sequence, size_t num_tokens, size_t keep_free_tokens) {
  KvSequence& s = get(sequence);
  const size_t stored = length(sequence);
  if (num_tokens > capacity_tokens()) return false;  // and the sum below cannot overflow
  const size_t num_pages = pages_for(stored + num_tokens);
  // Only the page that the next token falls into can be both shared and written: the ones before
  // are full, the ones after were taken by this sequence.
  const size_t next = stored / kPageTokens;
  const bool copy =
      num_tokens != 0 && next < s.blocks.size() && !pool_->is_exclusive(s.blocks[next]);
  const size_t more = num_pages > s.blocks.size() ? num_pages - s.blocks.size() : 0;
  taken_.clear();
  if (!pool_->take(more + copy, pages_for(keep_free_tokens), taken_)) return false;

  grow_page_table(s, num_pages);
  if (copy) {
    const KvBlock shared = s.blocks[next], own = taken_.back();
    taken_.pop_back();
    pool_->copy(shared, own);
    pool_->drop({&shared, 1});
    set_page(s, next, own);
  }
  for (const KvBlock block : taken_) set_page(s, s.blocks.size(), block);
  s.room = std::max(s.room, stored + num_tokens);
  return true;
}

KvSequence KvCache::take_out(SequenceId sequence) {
  KvSequence out = std::move(get(sequence));
  sequences_[sequence] = {};
  unused_.push_back(sequence);
  return out;
}

SequenceId KvCache::put_in(KvSequence sequence) {
  const SequenceId id = unused_slot();
  sequences_[id] = std::move(sequence);
  return id;
}

size_t KvCache::length(SequenceId sequence) const {
  const KvSequence& s = get(sequence);
  return *std::min_element(s.layer_length.begin(), s.layer_length.end());
}

void KvCache::append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
                     const float* k, const float* v, size_t stride) {
  KvSequence& s = get(sequence);
  WEFT_ASSERT(layer < options_.num_layers && first_position <= s.layer_length[layer] &&
              first_position + num_tokens <= s.room);
  for (size_t done = 0; done < num_tokens;) {
    const size_t position = first_position + done, in_page = position % kPageTokens;
    const size_t count = std::min(num_tokens - done, kPageTokens - in_page);
    kernels::write_kv(options_.shape, options_.format,
                      pool_->page(layer, s.blocks[position / kPageTokens]), pool_->head_stride(),
                      in_page, count, k + done * stride, v + done * stride, stride);
    done += count;
  }
  s.layer_length[layer] = first_position + num_tokens;
}

kernels::KvView KvCache::view(size_t layer, size_t sequence) const {
  const KvSequence& s = get(sequence);
  WEFT_ASSERT(layer < options_.num_layers);
  const size_t length = s.layer_length[layer];
  return {.pages = std::span(s.pages).subspan(layer * s.pages_per_layer, pages_for(length)),
          .length = length};
}

KvSequence& KvCache::get(SequenceId sequence) {
  WEFT_ASSERT(sequence < sequences_.size() && sequences_[sequence].live);
  return sequences_[sequence];
}

const KvSequence& KvCache::get(SequenceId sequence) const {
  WEFT_ASSERT(sequence < sequences_.size() && sequences_[sequence].live);
  return sequences_[sequence];
}

// Doubles, so that a sequence growing token by token allocates a dozen times in its life.
void KvCache::grow_page_table(KvSequence& s, size_t num_pages) {
  if (num_pages <= s.pages_per_layer) return;
  const size_t wider = std::max({num_pages, 2 * s.pages_per_layer, size_t{16}});
  std::vector<kernels::KvPage> pages(options_.num_layers * wider);
  for (size_t layer = 0; layer < options_.num_layers; ++layer) {
    std::copy_n(s.pages.begin() + static_cast<ptrdiff_t>(layer * s.pages_per_layer),
                s.blocks.size(), pages.begin() + static_cast<ptrdiff_t>(layer * wider));
  }
  s.blocks.reserve(wider);
  s.kept.reserve(wider);
  s.pages = std::move(pages);
  s.pages_per_layer = wider;
}

void KvCache::set_page(KvSequence& s, size_t index, KvBlock block) {
  if (index == s.blocks.size()) s.blocks.push_back(block);
  s.blocks[index] = block;
  for (size_t layer = 0; layer < options_.num_layers; ++layer)
    s.pages[layer * s.pages_per_layer + index] = {.data = pool_->page(layer, block),
                                                  .head_stride = pool_->head_stride(),
                                                  .k_format = options_.format,
                                                  .v_format = options_.format};
}

void KvCache::keep_pages(KvSequence& s, size_t num_pages) {
  if (num_pages >= s.blocks.size()) return;
  pool_->drop(std::span(s.blocks).subspan(num_pages));
  s.blocks.resize(num_pages);
}

}  // namespace weft::text
