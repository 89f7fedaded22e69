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

void KvCache::number_next(SequenceId sequence) {
  while (sequences_.size() <= sequence) {
    unused_.insert(unused_.begin(), sequences_.size());
    sequences_.emplace_back();
  }
  const auto at = std::find(unused_.begin(), unused_.end(), sequence);
  WEFT_ASSERT(at != unused_.end());
  std::rotate(at, at + 1, unused_.end());  // unused_slot() takes the last
}

SequenceId KvCache::create(std::shared_ptr<const KvPolicy> policy) {
  const SequenceId id = begin_sequence(std::move(policy));
  if (journal_) journal_->created(id, options_.policy.get(), sequences_[id].policy.get());
  return id;
}

SequenceId KvCache::begin_sequence(std::shared_ptr<const KvPolicy> policy) {
  WEFT_ASSERT(policy == options_.policy || policy == nullptr || policy->mode() == KvMode::kDirect);
  const SequenceId id = unused_slot();
  KvSequence& s = sequences_[id];
  s.live = true;
  s.room = 0;
  s.layer_length.assign(options_.num_layers, 0);
  s.kept.clear();
  s.before = pool_->root();
  s.keeps = true;
  s.narrow.reset();
  s.forked = false;
  s.bad_value.reset();
  s.last_use = 0;
  s.policy = std::move(policy);
  return id;
}

SequenceId KvCache::fork(SequenceId source, size_t num_tokens) {
  const SequenceId id = begin_sequence(get(source).policy);
  if (journal_) journal_->forked(id, source, num_tokens);
  KvSequence& from = get(source);
  KvSequence& s = get(id);
  WEFT_ASSERT(num_tokens <= length(source));
  if (from.narrow) {
    s.narrow = from.narrow;
    s.blocks = from.blocks;
    pool_->share(s.blocks);
    s.pages = from.pages;
    s.pages_per_layer = from.pages_per_layer;
    s.layer_length = from.layer_length;
    s.bad_value = from.bad_value;
    s.keeps = false;
    s.forked = from.forked = true;
    from.room = 0;
    cut(id, num_tokens);
    return id;
  }
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
  if (journal_) journal_->released(sequence);
  KvSequence& s = get(sequence);
  keep_pages(s, 0);
  s.live = false;
  unused_.push_back(sequence);
}

size_t KvCache::truncate(SequenceId sequence, size_t num_tokens) {
  if (journal_) journal_->truncated(sequence, num_tokens);
  return cut(sequence, num_tokens);
}

size_t KvCache::cut(SequenceId sequence, size_t num_tokens) {
  KvSequence& s = get(sequence);
  WEFT_ASSERT(num_tokens <= length(sequence));
  s.room = 0;
  if (s.narrow) {
    num_tokens = s.narrow->can_keep(num_tokens);
    s.narrow->truncate(*s.policy, num_tokens);
    keep_pages(s, s.narrow->blocks_in_use());
    s.narrow->drop_blocks(s.blocks.size());
  } else {
    keep_pages(s, pages_for(num_tokens));
  }
  s.kept.resize(std::min(s.kept.size(), num_tokens / kPageTokens));
  std::fill(s.layer_length.begin(), s.layer_length.end(), num_tokens);
  return num_tokens;
}

SequenceId KvCache::create_from_prefix(uint64_t scope, std::span<const Token> tokens) {
  const SequenceId id = begin_sequence(options_.policy);
  if (journal_) journal_->created_from_prefix(id, scope, tokens);
  KvSequence& s = get(id);
  taken_.clear();
  // A kept page is one of 16 bit.
  if (s.policy != nullptr) tokens = tokens.first(std::min(tokens.size(), s.policy->exact_until()));
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
  if (s.narrow || !s.keeps || s.kept.size() >= num_full) return;
  if (journal_) journal_->kept(sequence, scope, s.kept.size(), tokens.first(num_full * kPageTokens));
  while (s.keeps && s.kept.size() < num_full) {
    const size_t page = s.kept.size();
    // Not what own_all_but() would have to copy next.
    if (s.policy != nullptr && length(sequence) + page >= s.policy->exact_until()) return;
    const auto kept = pool_->keep(scope, page == 0 ? s.before : s.kept.back(),
                                  tokens.subspan(page * kPageTokens, kPageTokens), s.blocks[page]);
    s.keeps = kept.has_value();
    if (!kept) return;
    if (kept->block != s.blocks[page]) set_page(s, page, kept->block);
    s.kept.push_back(kept->node);
  }
}

size_t KvCache::max_piece(SequenceId sequence) const {
  const KvSequence& s = get(sequence);
  if (s.policy == nullptr) return KvPolicy::kNever;
  const size_t stored = length(sequence);
  const bool pressed = s.policy->mode() == KvMode::kPressure && s.narrow;
  // Under pressure, so that room for one piece is no more than what one cut frees.
  const size_t end = pressed ? (stored / KvPolicy::kCutTokens + 1) * KvPolicy::kCutTokens
                             : s.policy->pass_end(stored);
  return end == KvPolicy::kNever ? end : end - stored;
}

bool KvCache::reserve(SequenceId sequence, size_t num_tokens, size_t keep_free_tokens) {
  const bool found = find_room(sequence, num_tokens, keep_free_tokens);
  if (journal_) journal_->reserved(sequence, num_tokens, keep_free_tokens, found);
  return found;
}

bool KvCache::find_room(SequenceId sequence, size_t num_tokens, size_t keep_free_tokens) {
  KvSequence& s = get(sequence);
  const size_t stored = length(sequence);
  if (s.policy == nullptr) return reserve_plain(s, stored, num_tokens, keep_free_tokens);
  if (s.policy->mode() == KvMode::kPressure) {
    s.last_use = ++clock_;
    // Which sequence is asked to give depends on what they have given, and on who waited longest.
    while (!reserve_pressed(s, stored, num_tokens, keep_free_tokens))
      if (!relieve()) return false;
    return true;
  }
  WEFT_ASSERT(num_tokens <= max_piece(sequence));
  if (s.policy->max_length() - stored < num_tokens) return false;
  if (s.narrow || stored >= s.policy->exact_until())
    return reserve_narrow(s, stored, num_tokens, keep_free_tokens);
  if (!reserve_plain(s, stored, num_tokens, keep_free_tokens)) return false;
  // Blocks have to be this sequence's own once pages become narrow. One copy for each token that is
  // left until then does not hold up a step.
  const size_t end = stored + num_tokens, exact_until = s.policy->exact_until();
  return own_all_but(s, exact_until > end ? exact_until - end : 0);
}

bool KvCache::reserve_plain(KvSequence& s, size_t stored, size_t num_tokens,
                            size_t keep_free_tokens) {
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

bool KvCache::reserve_narrow(KvSequence& s, size_t stored, size_t num_tokens,
                             size_t keep_free_tokens) {
  if (!s.narrow) {
    if (!own_all_but(s, 0)) return false;
    s.narrow.emplace(*s.policy, options_.num_layers, s.blocks.size(), stored);
    s.kept.clear();
    s.keeps = false;
  }
  if (s.forked && !own_copies(s)) return false;
  const size_t needed = num_tokens == 0 ? 0 : s.policy->blocks(stored, stored + num_tokens);
  if (needed > s.blocks.size()) {
    taken_.clear();
    if (!pool_->take(needed - s.blocks.size(), pages_for(keep_free_tokens), taken_)) return false;
    s.narrow->add_blocks(taken_.size());
    s.blocks.insert(s.blocks.end(), taken_.begin(), taken_.end());
  }
  grow_page_table(s, pages_for(stored + num_tokens));
  s.room = std::max(s.room, stored + num_tokens);
  return true;
}

bool KvCache::reserve_pressed(KvSequence& s, size_t stored, size_t num_tokens,
                              size_t keep_free_tokens) {
  // One block stays in the pool for the sequence that narrows next to do it in.
  const size_t keep_free = std::max(keep_free_tokens, kPageTokens);
  if (!s.narrow) return reserve_plain(s, stored, num_tokens, keep_free);
  if (s.forked && !own_copies(s)) return false;
  const size_t in_block = s.policy->cells_per_block();
  const size_t pages = pages_for(stored + num_tokens) - pages_for(stored);
  // A layer's first narrow page takes a cell more than it leaves.
  const size_t cells = pages * in_block + options_.num_layers;
  const size_t free_cells = s.narrow->free_cells();
  if (num_tokens != 0 && cells > free_cells) {
    taken_.clear();
    const size_t more = (cells - free_cells + in_block - 1) / in_block;
    if (!pool_->take(more, pages_for(keep_free), taken_)) return false;
    s.narrow->add_blocks(taken_.size());
    s.blocks.insert(s.blocks.end(), taken_.begin(), taken_.end());
  }
  grow_page_table(s, pages_for(stored + num_tokens));
  s.room = std::max(s.room, stored + num_tokens);
  return true;
}

// Not one whose blocks another sequence reads too, nor one that is too short for narrow pages.
bool KvCache::can_relieve(const KvSequence& s) const {
  if (!s.live || s.forked || s.bad_value || s.policy == nullptr ||
      s.policy->mode() != KvMode::kPressure || s.policy->num_steps() == 0)
    return false;
  const size_t stored = *std::min_element(s.layer_length.begin(), s.layer_length.end());
  if (stored < 2 * KvPolicy::kCutTokens + KvPolicy::kExactTokens) return false;
  if (s.narrow) return s.narrow->steps_taken() < s.policy->num_steps();
  return std::all_of(s.blocks.begin(), s.blocks.end(),
                     [&](KvBlock block) { return pool_->has_one_user(block); });
}

// Of the sequences that can, the one with the fewest steps; of those, the one that waited longest. It
// takes steps until a block is free. False: nobody has any to give.
bool KvCache::relieve() {
  while (true) {
    KvSequence* giver = nullptr;
    const auto rank = [](const KvSequence& s) {
      return std::make_pair(s.narrow ? s.narrow->steps_taken() : 0, s.last_use);
    };
    for (KvSequence& s : sequences_)
      if (can_relieve(s) && (giver == nullptr || rank(s) < rank(*giver))) giver = &s;
    if (giver == nullptr) return false;
    const size_t before = pool_->free_tokens();
    if (!narrow_once(*giver)) return false;
    if (pool_->free_tokens() > before) return true;
  }
}

// One step, and back to the pool what it frees. False: no block was left to begin with.
bool KvCache::narrow_once(KvSequence& s) {
  const size_t stored = *std::min_element(s.layer_length.begin(), s.layer_length.end());
  if (!s.narrow) {
    if (!own_all_but(s, 0)) return false;
    s.narrow.emplace(*s.policy, options_.num_layers, s.blocks.size(), stored);
    s.kept.clear();
    s.keeps = false;
  }
  if (s.narrow->free_cells() == 0) {
    taken_.clear();
    if (!pool_->take(1, 0, taken_)) return false;
    s.narrow->add_blocks(1);
    s.blocks.push_back(taken_.back());
  }
  std::optional<KvBadValue> bad;
  const size_t layer = s.policy->layer_of_step(s.narrow->steps_taken());
  s.narrow->take_step(*s.policy, place(s, layer), stored, bad);
  if (bad) s.bad_value = bad;
  // What the tokens that have room already will take stays.
  const size_t in_block = s.policy->cells_per_block();
  const size_t promised = s.room <= stored ? 0
                                           : (pages_for(s.room) - pages_for(stored)) * in_block +
                                                 options_.num_layers;
  const size_t used = s.blocks.size() * in_block - s.narrow->free_cells();
  const size_t keep = (used + promised + in_block - 1) / in_block;
  if (keep >= s.blocks.size()) return true;
  s.narrow->compact(*s.policy, place(s, 0));
  keep_pages(s, keep);
  s.narrow->drop_blocks(keep);
  for (size_t l = 0; l < options_.num_layers; ++l)
    s.narrow->update_pages(*s.policy, place(s, l), l);
  return true;
}

size_t KvCache::reclaimable_tokens() const {
  size_t blocks = 0;
  for (const KvSequence& s : sequences_) {
    if (!can_relieve(s)) continue;
    const size_t stored = *std::min_element(s.layer_length.begin(), s.layer_length.end());
    const size_t least = s.policy->peak_blocks(std::max(stored, s.room));
    blocks += s.blocks.size() - std::min(least, s.blocks.size());
  }
  return blocks * kPageTokens;
}

// Copies the last pages that others own too, until at most so many are left.
bool KvCache::own_all_but(KvSequence& s, size_t num_shared) {
  if (s.blocks.size() <= num_shared) return true;
  size_t count = 0;
  for (const KvBlock block : s.blocks) count += !pool_->is_exclusive(block);
  for (size_t page = s.blocks.size(); count > num_shared && page-- > 0;) {
    if (pool_->is_exclusive(s.blocks[page])) continue;
    if (!own_page(s, page)) return false;
    --count;
  }
  return true;
}

bool KvCache::own_page(KvSequence& s, size_t page) {
  const KvBlock shared = s.blocks[page];
  taken_.clear();
  if (pool_->take(1, 0, taken_)) {
    pool_->copy(shared, taken_.back());
    pool_->drop({&shared, 1});
    set_page(s, page, taken_.back());
  } else if (!pool_->unkeep(shared)) {
    return false;
  }
  s.kept.resize(std::min(s.kept.size(), page));
  s.keeps = false;
  return true;
}

// Of a fork's blocks.
bool KvCache::own_copies(KvSequence& s) {
  const auto is_own = [&](KvBlock block) { return pool_->is_exclusive(block); };
  if (!std::all_of(s.blocks.begin(), s.blocks.end(), is_own)) {
    taken_.clear();
    if (!pool_->take(s.blocks.size(), 0, taken_)) return false;
    for (size_t i = 0; i < s.blocks.size(); ++i) pool_->copy(s.blocks[i], taken_[i]);
    pool_->drop(s.blocks);
    s.blocks.assign(taken_.begin(), taken_.end());
    for (size_t layer = 0; layer < options_.num_layers; ++layer)
      s.narrow->update_pages(*s.policy, place(s, layer), layer);
  }
  s.forked = false;
  return true;
}

NarrowPages::Place KvCache::place(KvSequence& s, size_t layer) {
  return {.pool = *pool_,
          .blocks = s.blocks,
          .pages = std::span(s.pages).subspan(layer * s.pages_per_layer, s.pages_per_layer),
          .scratch = scratch_};
}

KvSequence KvCache::take_out(SequenceId sequence) {
  WEFT_ASSERT(!journal_);
  KvSequence out = std::move(get(sequence));
  sequences_[sequence] = {};
  unused_.push_back(sequence);
  return out;
}

SequenceId KvCache::put_in(KvSequence sequence) {
  WEFT_ASSERT(!journal_);
  const SequenceId id = unused_slot();
  sequences_[id] = std::move(sequence);
  return id;
}

size_t KvCache::length(SequenceId sequence) const {
  const KvSequence& s = get(sequence);
  return *std::min_element(s.layer_length.begin(), s.layer_length.end());
}

void KvCache::stored_elsewhere(SequenceId sequence, size_t length) {
  KvSequence& s = get(sequence);
  WEFT_ASSERT(length <= s.room);
  std::fill(s.layer_length.begin(), s.layer_length.end(), length);
}

void KvCache::follow(SequenceId sequence, std::span<const KvBlock> blocks, size_t stored,
                     size_t room) {
  if (sequence >= sequences_.size()) sequences_.resize(sequence + 1);
  KvSequence& s = sequences_[sequence];
  s.live = true;
  s.room = room;
  s.layer_length.assign(options_.num_layers, stored);
  grow_page_table(s, blocks.size());
  if (s.blocks.size() > blocks.size()) s.blocks.resize(blocks.size());
  for (size_t page = 0; page < blocks.size(); ++page)
    if (page >= s.blocks.size() || s.blocks[page] != blocks[page]) set_page(s, page, blocks[page]);
}

void KvCache::append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
                     const float* k, const float* v, size_t stride) {
  KvSequence& s = get(sequence);
  WEFT_ASSERT(layer < options_.num_layers && first_position <= s.layer_length[layer] &&
              first_position + num_tokens <= s.room);
  if (s.narrow && num_tokens != 0) {
    const NarrowPages::Place at = place(s, layer);
    const auto bad = s.narrow->advance(*s.policy, at, layer, first_position);
    if (!s.bad_value) s.bad_value = bad;
    s.narrow->grow(*s.policy, at, layer, first_position + num_tokens);
  }
  for (size_t done = 0; done < num_tokens;) {
    const size_t position = first_position + done, in_page = position % kPageTokens;
    const size_t count = std::min(num_tokens - done, kPageTokens - in_page);
    const size_t index = position / kPageTokens;
    if (s.narrow) {
      // The cells are this sequence's own; the view of them is const for who reads.
      const kernels::KvPage& page = s.pages[layer * s.pages_per_layer + index];
      kernels::write_kv(options_.shape, options_.format, const_cast<uint8_t*>(page.data),
                        page.head_stride, in_page, count, k + done * stride, v + done * stride,
                        stride, const_cast<uint8_t*>(page.values));
    } else if (has_page(index)) {
      kernels::write_kv(options_.shape, options_.format, pool_->page(layer, s.blocks[index]),
                        pool_->head_stride(), in_page, count, k + done * stride, v + done * stride,
                        stride);
    }
    done += count;
  }
  s.layer_length[layer] = first_position + num_tokens;
}

kernels::KvView KvCache::view(size_t layer, size_t sequence) const {
  const KvSequence& s = get(sequence);
  WEFT_ASSERT(layer < options_.num_layers && options_.division == 1);
  const size_t length = s.layer_length[layer];
  return {.pages = std::span(s.pages).subspan(layer * s.pages_per_layer, pages_for(length)),
          .length = length};
}

std::span<const kernels::KvPage> KvCache::reserved(size_t layer, size_t sequence) const {
  const KvSequence& s = get(sequence);
  return std::span(s.pages).subspan(layer * s.pages_per_layer, s.blocks.size());
}

void KvCache::set_length(size_t layer, size_t sequence, size_t length) {
  KvSequence& s = get(sequence);
  WEFT_ASSERT(!s.narrow && length <= s.room);
  s.layer_length[layer] = length;
}

std::vector<std::byte> KvCache::take_changes() {
  if (journal_) return journal_->take();
  journal_ = std::make_unique<KvJournal>(options_);
  // Nothing is stored yet: sequences are what room they have.
  std::vector<SequenceId> live;
  for (SequenceId id = 0; id < sequences_.size(); ++id)
    if (sequences_[id].live) live.push_back(id);
  std::sort(live.begin(), live.end(), [this](SequenceId a, SequenceId b) {
    return sequences_[a].last_use < sequences_[b].last_use;
  });
  for (const SequenceId id : live) {
    WEFT_ASSERT(length(id) == 0);
    journal_->created(id, options_.policy.get(), sequences_[id].policy.get());
    if (sequences_[id].room != 0) journal_->reserved(id, sequences_[id].room, 0, true);
  }
  return journal_->take();
}

size_t KvCache::piece_end(size_t layer, size_t sequence, size_t position) const {
  const KvSequence& s = get(sequence);
  return s.narrow ? s.policy->next_cut(layer, position) : KvPolicy::kNever;
}

KvUsage KvCache::usage(SequenceId sequence) const {
  const KvSequence& s = get(sequence);
  const kernels::KvShape& shape = options_.shape;
  KvUsage usage;
  usage.block_bytes = s.blocks.size() * options_.num_layers * shape.page_bytes(options_.format);
  if (s.narrow)
    s.narrow->add_usage(*s.policy, shape, usage);
  else
    usage.code_bytes[0] =
        pages_for(length(sequence)) * options_.num_layers * shape.page_bytes(options_.format);
  return usage;
}

KvUsage KvCache::usage() const {
  KvUsage total;
  for (SequenceId id = 0; id < sequences_.size(); ++id)
    if (sequences_[id].live) total += usage(id);
  return total;
}

KvWidths KvCache::widths(size_t layer, SequenceId sequence) const {
  const KvSequence& s = get(sequence);
  return s.narrow ? s.narrow->widths(*s.policy, layer) : KvWidths{};
}

std::string KvCache::audit() const {
  for (const KvSequence& s : sequences_) {
    if (!s.live || !s.narrow) continue;
    if (std::string wrong = s.narrow->audit(*s.policy, s.blocks.size()); !wrong.empty())
      return wrong;
  }
  return {};
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
                s.pages_per_layer, pages.begin() + static_cast<ptrdiff_t>(layer * wider));
  }
  s.blocks.reserve(wider);
  s.kept.reserve(wider);
  s.pages = std::move(pages);
  s.pages_per_layer = wider;
}

void KvCache::set_page(KvSequence& s, size_t index, KvBlock block) {
  if (index == s.blocks.size()) s.blocks.push_back(block);
  s.blocks[index] = block;
  if (!has_page(index)) {  // and entries may be those of another sequence that was here
    for (size_t layer = 0; layer < options_.num_layers; ++layer)
      s.pages[layer * s.pages_per_layer + index] = {};
    return;
  }
  if (options_.division != 1) pool_->hold(block);
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
