#include "text/kv_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/huge_pages.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;

}  // namespace

KvPool::KvPool(const KvCacheOptions& options) : options_(options) {
  const kernels::KvShape& shape = options.shape;
  WEFT_ASSERT(options.num_layers != 0 && shape.num_kv_heads != 0);
  if (shape.head_dim == 0 || shape.head_dim % 16 != 0 || shape.head_dim > 512)
    fail(ErrorKind::kUnsupported,
         "KV cache: head_dim = {}, but attention needs a multiple of 16, 512 at most. Use another "
         "model.",
         shape.head_dim);
  page_bytes_ = shape.page_bytes(options.format);
  block_bytes_ = options.num_layers * page_bytes_;
  head_bytes_ = 2 * shape.head_bytes(options.format);
  head_stride_ = kRunBlocks * head_bytes_;
  const size_t tokens = options.capacity_tokens;
  const size_t num_blocks = tokens / kPageTokens + (tokens % kPageTokens != 0);
  const size_t num_runs = (num_blocks + kRunBlocks - 1) / kRunBlocks;
  if (num_blocks >= kRoot ||
      num_runs > std::numeric_limits<ptrdiff_t>::max() / (kRunBlocks * block_bytes_))
    fail(ErrorKind::kOutOfResources,
         "KV cache: {} tokens of {} bytes each are more than a machine can address. Ask for a "
         "shorter context.",
         tokens, block_bytes_ / kPageTokens);
  const size_t bytes = num_runs * kRunBlocks * block_bytes_;
  WEFT_ASSERT(options.division == 1 || !options.policy);
  if (options.division != 1)
    slot_of_.assign(num_blocks, kNoSlot);
  else
    memory_ = options.memory ? options.memory(bytes)
                             : Buffer(bytes, "the KV cache (ask for a shorter context)");
  owners_.resize(num_blocks);
  node_of_.assign(num_blocks, kRoot);
  free_.resize(num_blocks);
  for (size_t i = 0; i < num_blocks; ++i) free_[i] = static_cast<KvBlock>(num_blocks - 1 - i);
}

void KvPool::make_resident() {
#ifdef MADV_POPULATE_WRITE
  // Refused (an old kernel, too little memory): pages come with first use, as without it.
  if (memory_.bytes() != 0) madvise(memory_.data(), memory_.bytes(), MADV_POPULATE_WRITE);
#endif
  if (memory_.bytes() != 0) use_huge_pages(memory_.data(), memory_.bytes());  // shared with other processes, it has none yet
}

void KvPool::hold(KvBlock block) {
  uint32_t& slot = slot_of_[block];
  if (slot != kNoSlot) return;
  if (free_slots_.empty()) {
    const size_t first = runs_.size() * kRunBlocks;
    runs_.emplace_back(kRunBlocks * block_bytes_, "the KV cache (ask for a shorter context)");
    for (size_t i = kRunBlocks; i-- > 0;) free_slots_.push_back(static_cast<uint32_t>(first + i));
  }
  slot = free_slots_.back();
  free_slots_.pop_back();
}

uint8_t* KvPool::page(size_t layer, KvBlock block) {
  if (options_.division != 1) {
    const uint32_t slot = slot_of_[block];
    return runs_[slot / kRunBlocks].data() + layer * kRunBlocks * page_bytes_ +
           slot % kRunBlocks * head_bytes_;
  }
  const size_t run = block / kRunBlocks;
  return memory_.data() + (run * options_.num_layers + layer) * kRunBlocks * page_bytes_ +
         block % kRunBlocks * head_bytes_;
}

void KvPool::copy(KvBlock from, KvBlock to) {
  if (options_.division != 1) {
    if (slot_of_[from] == kNoSlot) return;  // another part's page
    hold(to);
  }
  for (size_t layer = 0; layer < options_.num_layers; ++layer)
    for (size_t head = 0; head < options_.shape.num_kv_heads; ++head)
      std::memcpy(page(layer, to) + head * head_stride_, page(layer, from) + head * head_stride_,
                  head_bytes_);
}

size_t KvPool::free_tokens() const {
  const std::lock_guard lock(mutex_);
  return (free_.size() + num_idle_) * kPageTokens;
}

bool KvPool::has_one_user(KvBlock block) const {
  const std::lock_guard lock(mutex_);
  return owners_[block] == 1u + (node_of_[block] != kRoot);
}

bool KvPool::is_exclusive(KvBlock block) const {
  const std::lock_guard lock(mutex_);
  return owners_[block] == 1;
}

bool KvPool::take(size_t count, size_t keep_free, std::vector<KvBlock>& out) {
  if (count == 0) return true;
  const std::lock_guard lock(mutex_);
  const size_t available = free_.size() + num_idle_;
  if (count > available || available - count < keep_free) return false;
  // Whoever owns a kept block owns all before it, so every idle one has an idle leaf behind it.
  while (free_.size() < count) remove_leaf(idle_leaves_.begin()->second);
  for (size_t i = 0; i < count; ++i) {
    out.push_back(free_.back());
    free_.pop_back();
    owners_[out.back()] = 1;
  }
  return true;
}

void KvPool::share(std::span<const KvBlock> blocks) {
  const std::lock_guard lock(mutex_);
  for (const KvBlock block : blocks) add_owner(block);
}

// From the end, so that a sequence's last block is the first to go of those it leaves kept.
void KvPool::drop(std::span<const KvBlock> blocks) {
  const std::lock_guard lock(mutex_);
  for (size_t i = blocks.size(); i-- > 0;) drop_owner(blocks[i]);
}

void KvPool::add_owner(KvBlock block) {
  WEFT_ASSERT(owners_[block] != 0);
  const uint32_t node = node_of_[block];
  if (node != kRoot && is_idle(node)) {
    --num_idle_;
    if (nodes_[node].num_children == 0) leaf_vanishes(node);
  }
  ++owners_[block];
}

void KvPool::drop_owner(KvBlock block) {
  WEFT_ASSERT(owners_[block] != 0);
  const uint32_t node = node_of_[block];
  if (--owners_[block] == 0) {
    free_block(block);
  } else if (node != kRoot && is_idle(node)) {
    ++num_idle_;
    nodes_[node].last_use = ++clock_;
    if (nodes_[node].num_children == 0) leaf_appears(node);
  }
}

void KvPool::free_block(KvBlock block) {
  free_.push_back(block);
  if (options_.division == 1 || slot_of_[block] == kNoSlot) return;
  free_slots_.push_back(slot_of_[block]);
  slot_of_[block] = kNoSlot;
}

// ---- prefixes

size_t KvPool::KeyHash::operator()(const Key& key) const {
  uint64_t h = key.scope ^ (uint64_t{key.parent} << 32);
  for (const Token token : key.tokens) {
    h = (h ^ static_cast<uint32_t>(token)) * 0x9E3779B97F4A7C15;
    h ^= h >> 29;
  }
  return h;
}

// The scope counts in the first block; the rest follow from it.
KvPool::Key KvPool::make_key(uint64_t scope, uint32_t parent, std::span<const Token> tokens) {
  WEFT_ASSERT(tokens.size() == kPageTokens);
  Key key{.parent = parent, .scope = parent == kRoot ? scope : 0, .tokens = {}};
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  return key;
}

bool KvPool::is_current(PrefixNode node) const {
  return node.generation ==
         (node.index == kRoot ? root_generation_ : nodes_[node.index].generation);
}

KvPool::PrefixNode KvPool::root() const {
  const std::lock_guard lock(mutex_);
  return {kRoot, root_generation_};
}

void KvPool::leaf_appears(uint32_t node) { idle_leaves_.emplace(nodes_[node].last_use, node); }
void KvPool::leaf_vanishes(uint32_t node) { idle_leaves_.erase({nodes_[node].last_use, node}); }

// An idle one.
void KvPool::remove_leaf(uint32_t index) {
  leaf_vanishes(index);
  Node& node = nodes_[index];
  tree_.erase(tree_.find(*node.key));
  ++node.generation;
  --num_idle_;
  node_of_[node.block] = kRoot;
  owners_[node.block] = 0;
  free_block(node.block);
  unused_nodes_.push_back(index);
  if (node.parent == kRoot) return;
  Node& parent = nodes_[node.parent];
  if (--parent.num_children == 0 && is_idle(node.parent)) leaf_appears(node.parent);
}

void KvPool::find_prefix(uint64_t scope, std::span<const Token> tokens,
                         std::vector<KvBlock>& blocks, std::vector<PrefixNode>& nodes) {
  const std::lock_guard lock(mutex_);
  for (uint32_t at = kRoot; tokens.size() >= kPageTokens; tokens = tokens.subspan(kPageTokens)) {
    const auto found = tree_.find(make_key(scope, at, tokens.first(kPageTokens)));
    if (found == tree_.end()) return;
    at = found->second;
    add_owner(nodes_[at].block);
    blocks.push_back(nodes_[at].block);
    nodes.push_back({at, nodes_[at].generation});
  }
}

std::optional<KvPool::Kept> KvPool::keep(uint64_t scope, PrefixNode parent,
                                         std::span<const Token> tokens, KvBlock block) {
  const std::lock_guard lock(mutex_);
  if (!is_current(parent)) return std::nullopt;
  const auto [entry, is_new] = tree_.try_emplace(make_key(scope, parent.index, tokens), 0);
  if (!is_new) {
    const KvBlock other = nodes_[entry->second].block;
    if (other != block) {
      add_owner(other);
      drop_owner(block);
    }
    return Kept{other, {entry->second, nodes_[entry->second].generation}};
  }
  WEFT_ASSERT(node_of_[block] == kRoot);
  uint32_t index = static_cast<uint32_t>(nodes_.size());
  if (unused_nodes_.empty()) {
    nodes_.emplace_back();
  } else {
    index = unused_nodes_.back();
    unused_nodes_.pop_back();
  }
  entry->second = index;
  Node& node = nodes_[index];
  node.parent = parent.index;
  node.num_children = 0;
  node.block = block;
  node.key = &entry->first;
  node_of_[block] = index;
  ++owners_[block];
  if (parent.index != kRoot) ++nodes_[parent.index].num_children;
  return Kept{block, {index, node.generation}};
}

bool KvPool::unkeep(KvBlock block) {
  const std::lock_guard lock(mutex_);
  const uint32_t index = node_of_[block];
  if (index == kRoot || owners_[block] != 2 || nodes_[index].num_children != 0) return false;
  drop_owner(block);  // an idle leaf now,
  remove_leaf(index);
  free_.pop_back();  // and free, but for us
  owners_[block] = 1;
  return true;
}

void KvPool::forget_prefixes() {
  const std::lock_guard lock(mutex_);
  ++root_generation_;
  for (const auto& [key, index] : tree_) {
    Node& node = nodes_[index];
    ++node.generation;
    node_of_[node.block] = kRoot;
    drop_owner(node.block);
    unused_nodes_.push_back(index);
  }
  tree_.clear();
  idle_leaves_.clear();
  num_idle_ = 0;
}

std::string KvPool::audit() const {
  const std::lock_guard lock(mutex_);
  std::vector<bool> is_free(owners_.size());
  for (const KvBlock block : free_) {
    if (is_free[block]) return fmt::format("block {} is free twice", block);
    is_free[block] = true;
  }
  size_t num_kept = 0, num_idle = 0, num_idle_leaves = 0;
  for (KvBlock block = 0; block < owners_.size(); ++block) {
    if (is_free[block] != (owners_[block] == 0))
      return fmt::format("block {} has {} owners and is {}free", block, owners_[block],
                         is_free[block] ? "" : "not ");
    const uint32_t index = node_of_[block];
    if (index == kRoot) continue;
    const Node& node = nodes_[index];
    ++num_kept;
    num_idle += is_idle(index);
    num_idle_leaves += is_idle(index) && node.num_children == 0;
    if (node.block != block) return fmt::format("block {} is not that of its prefix", block);
    if (node.parent != kRoot && is_idle(node.parent) && !is_idle(index))
      return fmt::format("block {} is in use, but not the one before it", block);
  }
  if (num_kept != tree_.size())
    return fmt::format("{} blocks are kept, but the tree has {}", num_kept, tree_.size());
  if (num_idle != num_idle_ || num_idle_leaves != idle_leaves_.size())
    return fmt::format("{} prefixes are idle, {} of them leaves; counted: {} and {}", num_idle,
                       num_idle_leaves, num_idle_, idle_leaves_.size());
  return {};
}

}  // namespace weft::text
