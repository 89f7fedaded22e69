// In how many bits a sequence's keys and values are kept, by layer and position: PM-KVQ, progressive
// mixed-precision KV cache (arXiv 2505.18610), and its simpler kin.
//
//   plain        everything in 16 bit, today's cache
//   direct       the same widths from the first token to the last
//   progressive  16 bit until the sequence's budget of bytes is full; then, layer by layer, 8, 4 and
//                2, as far down as the layer may go (eq. 3; §3.1: as late as the budget allows)
//   pressure     16 bit until the pool runs short of blocks; then the steps of progressive, of the
//                sequence that has taken the fewest, as many as are needed (KvCache::reserve)
//
// The first page (the sink) and at least kExactTokens newest tokens stay in 16 bit. What is older is
// narrowed at the layer's *cuts*: every kCutTokens tokens, at another place in each layer, so that
// no step of decoding pays for all of them. All this is a pure function of the position: what a query
// sees depends on its position alone, however the text before it was cut into pieces. So chunks,
// preemption and batches change no bit. (Not so under pressure, where it depends on the load.)
//
// Bytes are true bytes: whole blocks of the pool, with codes, metadata, sink, newest tokens, slack.
// A slot of a block (one layer's page of 16 bit) is two *cells*; a cell holds the keys, or the
// values, of 1, 2, 4 or 8 pages in 16, 8, 4 or 2 bit, or the metadata of several pages.
//
// Immutable and thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kernels/kv_view.h"

namespace weft::text {

enum class KvMode : uint8_t { kPlain, kDirect, kProgressive, kPressure };

struct KvWidths {
  uint8_t k = 16, v = 16;  // bits: 16, 8, 4 or 2
  bool operator==(const KvWidths&) const = default;
};

struct KvPolicyOptions {
  KvMode mode = KvMode::kPlain;
  KvWidths widths = {};  // kDirect: of every layer. Else: the narrowest that are allowed
  std::vector<KvWidths> layer_widths = {};  // instead, for each layer; or none
  // What narrowing a layer's side costs in quality, for each layer (KL at 8, 4 and 2 bit, K then V);
  // or none. Where given, the cheapest step per byte freed is taken first. Else V before K, and deep
  // layers before shallow ones.
  struct Sensitivity {
    double k[3] = {}, v[3] = {};  // at 8, 4, 2 bit
  };
  std::vector<Sensitivity> sensitivities = {};
  // kProgressive: of one sequence. kPressure: of the pool that all share, for which max_length() is
  // computed, or 0.
  size_t budget_bytes = 0;
  size_t max_length = 0;  // tokens, where there is a budget: the longest sequence that is wanted
  // None given: Hadamard, where head_dim is a power of two.
  std::optional<kernels::KvTransform> transform = std::nullopt;
  // For transforms that smooth (eq. 9): what keys are divided by and queries multiplied by, for each
  // layer (num_kv_heads, head_dim).
  std::vector<std::vector<float>> smoothing = {};
};

class KvPolicy {
 public:
  static constexpr size_t kExactTokens = 128;  // newest tokens in 16 bit, at least
  static constexpr size_t kCutTokens = 128;    // from one cut of a layer to the next
  static constexpr size_t kNever = std::numeric_limits<size_t>::max();

  // kInvalidInput: widths other than 16, 8, 4, 2; layer_widths or sensitivities of another number of
  // layers; a budget or length of 0, or a budget too small for sink, newest tokens and one page;
  // smoothing factors that are missing, too few or not positive. kUnsupported: a Hadamard transform of
  // heads whose size is no power of two.
  KvPolicy(const KvPolicyOptions& options, size_t num_layers, const kernels::KvShape& shape);

  const KvPolicyOptions& options() const { return options_; }
  KvMode mode() const { return options_.mode; }
  kernels::KvTransform transform() const { return transform_; }
  kernels::HeadTransform head_transform(size_t layer) const;

  // The longest sequence that can be stored; kNever where only the pool limits it.
  size_t max_length() const { return max_length_; }
  // Sequences shorter than this are stored as the plain cache stores them; kNever under pressure, where
  // the pool decides.
  size_t exact_until() const { return exact_until_; }
  // A pass that begins at `position` must end here at the latest, so that every layer narrows before
  // the pass needs what that frees.
  size_t pass_end(size_t position) const;
  // Blocks that a sequence owns, at most, from `from` tokens on until it has `to`.
  size_t blocks(size_t from, size_t to) const;
  // Blocks of a sequence of so many tokens at its largest so far: what to plan room for.
  size_t peak_blocks(size_t length) const;
  size_t block_bytes() const { return block_bytes_; }
  size_t cells_per_block() const { return 2 * step_of_.size(); }

  // ---- one layer, for who stores it
  // The last cut at or before `position`, or the first after it; kNever: none.
  size_t last_cut(size_t layer, size_t position) const;
  size_t next_cut(size_t layer, size_t position) const;
  // Pages 1 ... this are narrow after a cut at `cut`, unless the layer is still at 16 bit.
  static size_t narrow_pages(size_t cut);
  // Narrowing happens in steps, each of one layer; so many are done by the layer's cut (kPressure: at
  // most). `tier` counts the layer's own.
  size_t num_steps() const { return order_.size(); }
  size_t layer_of_step(size_t step) const { return order_[step]; }
  size_t steps_at(size_t layer, size_t cut) const;
  size_t tier(size_t layer, size_t steps) const;
  KvWidths widths(size_t layer, size_t tier) const { return tiers_[layer][tier]; }
  // Pages whose keys or values share a cell, and pages whose metadata do.
  static size_t pages_per_cell(size_t bits) { return 16 / bits; }
  size_t meta_pages_per_cell() const { return meta_pages_per_cell_; }

  std::string describe() const;  // "progressive to 4 bit within 48.0 MiB", ...

 private:
  void make_tiers(size_t num_layers);
  void make_order();
  void make_schedule();
  void limit_length();
  size_t cells(size_t layer, size_t cut, size_t steps, size_t length) const;
  enum class Narrowing : uint8_t { kAsScheduled, kMayBegin };
  void make_factors(const kernels::KvShape& shape, size_t num_layers);
  size_t peak_cells(size_t from, size_t to, Narrowing narrowing = Narrowing::kAsScheduled) const;
  double step_cost(size_t layer, size_t tier) const;

  KvPolicyOptions options_;
  kernels::KvTransform transform_ = kernels::KvTransform::kNone;
  std::vector<std::vector<float>> query_factors_, key_factors_;  // by layer, or none
  size_t block_bytes_ = 0;
  size_t meta_pages_per_cell_ = 1;
  std::vector<size_t> phase_;                   // per layer: its first cut
  std::vector<std::vector<KvWidths>> tiers_;    // per layer, from 16/16 down
  std::vector<uint32_t> order_;                 // layers, in the order of their steps
  std::vector<std::vector<uint32_t>> step_of_;  // per layer: which steps are its own
  std::vector<uint32_t> steps_by_cycle_;        // done by the cuts of cycle k (kProgressive)
  size_t exact_until_ = kNever, max_length_ = kNever;
};

// True bytes of a sequence of `length` tokens in the widths of `options` from its first token on, at
// its largest: what others are compared with at equal bytes. The mode does not matter.
size_t direct_peak_bytes(KvPolicyOptions options, size_t num_layers, const kernels::KvShape& shape,
                         size_t length);

}  // namespace weft::text
