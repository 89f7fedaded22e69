// The memory of KV caches: blocks of kernels::kPageTokens tokens (all layers), each with a count of
// its owners. Several KvCaches may take from one pool; a block changes hands without being copied
// (the unified storage of semi-PD, Hong et al., arXiv 2504.19867, §4.3).
//
// Taking blocks is one transaction: all that were asked for, or none. Full blocks can be kept as
// prefixes for later requests that begin alike (a tree over their tokens, as in SGLang's
// RadixAttention, arXiv 2312.07104, in units of blocks). A kept block is never written again. Those
// that nobody uses count as free, and go, the longest unused first, when their room is needed; what
// follows a block goes before it.
//
// Thread-safe, but for the blocks' contents: a block is written by its only owner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "kernels/kv_view.h"
#include "text/kv_policy.h"

namespace weft::text {

using Token = int32_t;
using KvBlock = uint32_t;

struct KvCacheOptions {
  size_t num_layers = 0;
  kernels::KvShape shape;
  kernels::KvFormat format = kernels::KvFormat::kF16;
  size_t capacity_tokens = 0;  // rounded up to whole pages of 16 bit; shared by all sequences
  std::shared_ptr<const KvPolicy> policy = nullptr;  // which widths; null: 16 bit
  // Of every sequence, pages part, part + division, part + 2 division ... alone have memory here; the
  // others' is in other ranks' pools. Not with a policy.
  size_t division = 1, part = 0;
  // Where so many bytes come from, such as memory that other processes map; none: the system.
  std::function<Buffer(size_t bytes)> memory = {};
};

class KvPool {
 public:
  explicit KvPool(const KvCacheOptions& options);  // kOutOfResources says how much is needed

  const KvCacheOptions& options() const { return options_; }
  size_t capacity_tokens() const { return owners_.size() * kernels::kPageTokens; }
  size_t free_tokens() const;  // in whole blocks, unused prefixes among them
  size_t bytes() const { return owners_.size() * block_bytes_; }  // resident or not, of all parts
  // With a division: memory for a block that is one of this part's pages, until nobody owns it.
  void hold(KvBlock block);
  size_t held_bytes() const { return runs_.size() * kRunBlocks * block_bytes_; }  // for those
  // Has the system hand over all of the memory now. Otherwise it comes with first use, where a
  // virtual machine may take milliseconds for a huge page: a pause in every answer that runs.
  void make_resident();

  // Appends `count` blocks to `out`, each with one owner. False, and nothing has changed, when that
  // would leave less than `keep_free` blocks.
  [[nodiscard]] bool take(size_t count, size_t keep_free, std::vector<KvBlock>& out);
  void share(std::span<const KvBlock> blocks);  // one owner more for each
  void drop(std::span<const KvBlock> blocks);   // one fewer
  // Whether the block may be written: it has one owner and is not kept.
  bool is_exclusive(KvBlock block) const;
  // Whether one owner alone has it, beside its being kept.
  bool has_one_user(KvBlock block) const;
  void copy(KvBlock from, KvBlock to);

  // Where a layer's page of a block begins; its heads lie head_stride() apart.
  uint8_t* page(size_t layer, KvBlock block);
  size_t head_stride() const { return head_stride_; }

  // A place in the tree of prefixes: a block, or the root. It may have gone since; then nothing
  // follows it any more.
  struct PrefixNode {
    uint32_t index = kRoot;
    uint32_t generation = 0;
  };
  PrefixNode root() const;
  // The longest kept beginning of `tokens`, in whole blocks: appends them to `blocks`, with one
  // owner more, and their places to `nodes`. Prefixes of one scope are not found in another.
  void find_prefix(uint64_t scope, std::span<const Token> tokens, std::vector<KvBlock>& blocks,
                   std::vector<PrefixNode>& nodes);
  // Keeps `block`, which holds the keys and values of `tokens` (a whole block of them) after those
  // of `parent`. Gives the block to use from now on: where the same tokens are kept already, that
  // one (the caller owns it instead of `block`). Nothing: `parent` has gone, `block` stays as it
  // is.
  struct Kept {
    KvBlock block;
    PrefixNode node;
  };
  std::optional<Kept> keep(uint64_t scope, PrefixNode parent, std::span<const Token> tokens,
                           KvBlock block);
  // Makes a kept block its only owner's again, if nothing is kept behind it. False: it stays kept.
  bool unkeep(KvBlock block);
  void forget_prefixes();  // after a change of weights

  // Empty, or which of the rules above does not hold. For tests, while no other thread is at work.
  std::string audit() const;

 private:
  static constexpr uint32_t kRoot = ~uint32_t{0};
  static constexpr size_t kRunBlocks = 16;  // 512 tokens
  struct Key {
    uint32_t parent;
    uint64_t scope;
    std::array<Token, kernels::kPageTokens> tokens;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  struct Node {
    uint32_t parent = kRoot, generation = 0;
    uint32_t num_children = 0;
    KvBlock block = 0;
    uint64_t last_use = 0;
    const Key* key = nullptr;  // in tree_
  };

  static Key make_key(uint64_t scope, uint32_t parent, std::span<const Token> tokens);
  void add_owner(KvBlock block);
  void drop_owner(KvBlock block);
  void free_block(KvBlock block);
  bool is_idle(uint32_t node) const { return owners_[nodes_[node].block] == 1; }
  void leaf_appears(uint32_t node);
  void leaf_vanishes(uint32_t node);
  void remove_leaf(uint32_t node);
  bool is_current(PrefixNode node) const;

  KvCacheOptions options_;
  size_t page_bytes_ = 0;   // one layer
  size_t block_bytes_ = 0;  // all layers
  size_t head_bytes_ = 0;   // of a page: one head's keys and values
  size_t head_stride_ = 0;  // from head to head
  // (runs of kRunBlocks blocks, num_layers, num_kv_heads, block of the run, keys and values):
  // attention walks along one head of one layer, and memory becomes resident run by run.
  Buffer memory_;
  // With a division, runs come as blocks are held, each of which has a slot in one of them.
  static constexpr uint32_t kNoSlot = ~uint32_t{0};
  std::vector<Buffer> runs_;
  std::vector<uint32_t> slot_of_, free_slots_;  // per block; slots to use again

  mutable std::mutex mutex_;  // guards the rest
  std::vector<uint32_t> owners_;   // per block; being kept counts as one
  std::vector<KvBlock> free_;      // stack
  std::vector<uint32_t> node_of_;  // per block; kRoot: not kept
  std::vector<Node> nodes_;
  std::vector<uint32_t> unused_nodes_;
  std::unordered_map<Key, uint32_t, KeyHash> tree_;
  std::set<std::pair<uint64_t, uint32_t>> idle_leaves_;  // (last use, node): the order to go in
  size_t num_idle_ = 0;                                  // kept blocks without another owner
  uint64_t clock_ = 0;
  uint32_t root_generation_ = 0;  // of the weights
};

}  // namespace weft::text
