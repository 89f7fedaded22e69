// PM-KVQ's storage (arXiv 2505.18610; text/kv_policy.h decides when): the pages of one sequence some
// of which are narrower than 16 bit, in blocks of the pool that belong to this sequence alone.
//
// At a layer's cut its older pages are quantised, or its narrow ones narrowed in place; the cells
// that this leaves free take the pages to come. Narrow pages of a layer fill cells in order: K, V and
// metadata each have their own row of cells.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/kv_quant.h"
#include "kernels/kv_view.h"
#include "text/kv_policy.h"
#include "text/kv_pool.h"

namespace weft::text {

// Where the bytes of sequences are.
struct KvUsage {
  std::array<size_t, 4> code_bytes{};  // keys and values in 16, 8, 4 and 2 bit
  size_t meta_bytes = 0;               // steps and minima of the narrow ones
  size_t block_bytes = 0;              // of the blocks that hold all this: the true bytes

  KvUsage& operator+=(const KvUsage& other);
};

// A key or value that is no number.
struct KvBadValue {
  size_t layer = 0, position = 0;
  bool is_key = false;
};

// Half a slot of a block: cell 2l or 2l + 1 of block i is number i * cells_per_block() + that.
using KvCell = uint32_t;

class NarrowPages {
 public:
  // Takes over the pages that a sequence of `length` tokens has in `num_blocks` blocks, page i of all
  // layers in block i; blocks after those are free.
  NarrowPages(const KvPolicy& policy, size_t num_layers, size_t num_blocks, size_t length);

  void add_blocks(size_t num_blocks);  // more of them, at the end

  // What the calls below need: the sequence's blocks and its layer's pages as attention sees them,
  // which they keep up to date. `scratch`: one page.
  struct Place {
    KvPool& pool;
    std::span<const KvBlock> blocks;
    std::span<kernels::KvPage> pages;
    std::vector<uint8_t>& scratch;
  };

  // Does what the layer's cut at or before `position` asks for. Tells of the first value that is NaN
  // or infinite, if any; its page is worthless then.
  std::optional<KvBadValue> advance(const KvPolicy& policy, const Place& place, size_t layer,
                                    size_t position);
  // kPressure: takes the next of the policy's steps, in a sequence of `length` tokens. One cell is
  // free, at least. False: all are taken.
  bool take_step(const KvPolicy& policy, const Place& place, size_t length,
                 std::optional<KvBadValue>& bad);
  size_t steps_taken() const { return steps_; }
  // Moves cells out of the last blocks into free cells before them. Views change.
  void compact(const KvPolicy& policy, const Place& place);
  size_t free_cells() const;
  // Makes room for the pages of tokens below `length`. There is some: the policy has counted cells.
  void grow(const KvPolicy& policy, const Place& place, size_t layer, size_t length);

  // The most tokens, num_tokens at most, whose pages are still as a sequence of that length has them.
  // Newer pages that are narrow already cannot become exact again.
  size_t can_keep(size_t num_tokens) const;
  void truncate(const KvPolicy& policy, size_t num_tokens);  // to what can_keep() says

  size_t blocks_in_use() const;  // those up to the last that is
  void drop_blocks(size_t num_blocks_left);
  void update_pages(const KvPolicy& policy, const Place& place, size_t layer) const;

  KvWidths widths(const KvPolicy& policy, size_t layer) const;
  size_t narrow_pages(size_t layer) const { return layers_[layer].narrow; }
  void add_usage(const KvPolicy& policy, const kernels::KvShape& shape, KvUsage& usage) const;

  // Empty, or which of the rules does not hold: each cell belongs to one page or row, or is free.
  std::string audit(const KvPolicy& policy, size_t num_blocks) const;

 private:
  struct Layer {
    size_t cut = KvPolicy::kNever;  // done
    size_t tier = 0;
    size_t narrow = 0;              // pages 1 ... narrow
    // Cells of the pages in 16 bit, by page; of the narrow ones, in rows.
    std::vector<KvCell> exact_k, exact_v;
    std::vector<KvCell> k, v, meta;
  };

  std::optional<KvBadValue> narrow_to(const KvPolicy& policy, const Place& place, size_t layer,
                                      size_t tier);
  KvCell take_cell();
  void free_cell(KvCell cell);
  uint8_t* cell(const KvPolicy& policy, const Place& place, KvCell cell) const;
  size_t num_pages(size_t layer) const { return layers_[layer].exact_k.size(); }
  kernels::KvPageOut narrow_page(const KvPolicy& policy, const Place& place, const Layer& layer,
                                 size_t index, size_t tier, size_t layer_index) const;
  void shrink(const KvPolicy& policy, const Place& place, size_t layer, size_t tier);
  std::optional<KvBadValue> quantize_next(const KvPolicy& policy, const Place& place,
                                          size_t layer);
  void update_page(const KvPolicy& policy, const Place& place, size_t layer, size_t page) const;
  template <typename Layers, typename Visit>
  static void for_each_cell(Layers& layers, Visit visit);

  std::vector<Layer> layers_;
  size_t steps_ = 0;        // kPressure
  std::vector<bool> used_;  // per cell
  size_t first_free_ = 0;   // no free cell is before it
};

}  // namespace weft::text
