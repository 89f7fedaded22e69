// Attention of one sequence over several ranks: each computes the queries of its tokens, and the
// pages of keys and values travel as an Exchange says (TASP, Ring Attention, ...) while those that
// came before are attended to: transfers run beside attention, and as far ahead of it as links
// allow. Partial results are merged by their log-sum-exp in the order of the steps, whatever came
// first, so that two runs give the same bits.
//
// What is placed and cut are pages (kernels::kPageTokens tokens): all of a rank's stretches but for
// the end of the sequence are whole pages, and a piece is pages as attention reads them.
//
// A sequence may go on: tokens before `first_position` are in every rank's cache, and so are all
// new ones when attend() returns. So every rank could go on alone. Where older pages are narrow, new
// ones are kept aside in 16 bit until all of the layer's have been attended to. So are they where each
// rank has some of a sequence's pages (SharedPages::division); earlier ones travel with the new ones
// then, and the first new one begins a page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "comm/communicator.h"
#include "models/teams.h"
#include "parallel/exchange.h"
#include "parallel/placement.h"
#include "parallel/shared_pages.h"
#include "parallel/transfers.h"

namespace weft::parallel {

// For measuring: the whole, or one side of it. Results mean something with kAll alone.
enum class SpreadPart : uint8_t { kAll, kTransfers, kAttention };

// What one rank did, summed over calls. Thread-unsafe; reset by assigning {}.
struct SpreadTimes {
  double attention_s = 0, waiting_s = 0, copying_s = 0;  // waiting: for pieces, after attention
};

// Which tokens of a call are whose. Placement counts pages.
class PagePlacement {
 public:
  PagePlacement() = default;
  PagePlacement(const Exchange& exchange, bool zigzag, bool causal, size_t first_position,
                size_t num_tokens);
  const Placement& pages() const { return pages_; }
  size_t first_page() const { return first_position_ / kernels::kPageTokens; }
  size_t first_position() const { return first_position_; }
  size_t end_position() const { return first_position_ + num_tokens_; }
  // Positions, in the sequence, of a stretch of pages.
  TokenRange tokens(TokenRange pages) const;
  TokenRange front(size_t rank) const { return tokens(pages_.front(rank)); }
  TokenRange back(size_t rank) const { return tokens(pages_.back(rank)); }

 private:
  Placement pages_;
  size_t first_position_ = 0, num_tokens_ = 0;
};

class ExchangedAttention final : public models::SpreadAttention {
 public:
  // `zigzag` is for causal attention. The table is checked: kInvalidInput says which rule it
  // breaks.
  ExchangedAttention(comm::Communicator ranks, Exchange exchange, bool zigzag, bool causal);

  const Exchange& exchange() const { return exchange_; }
  size_t rank() const { return ranks_.rank(); }
  // The new tokens of `sequence` in `cache` (room reserved on every rank) that the next calls of
  // attend(), one for each layer, are about: first those of front(), then those of back().
  void begin(SharedPages& cache, size_t sequence, size_t first_position, size_t num_tokens);
  const PagePlacement& placement() const { return placement_; }

  // kUnsupported: a sliding window.
  void attend(const kernels::AttentionShape& shape, size_t layer, const float* q, const float* k,
              const float* v, float* out, const CoreSet& cores) override;

  SpreadTimes times;
  SpreadPart part = SpreadPart::kAll;

 private:
  using Pages = std::vector<kernels::KvPage>;

  void find_pages(size_t layer);
  void store(const float* k, const float* v);
  void append_all(size_t layer);
  void keep_own(size_t layer);
  size_t num_earlier(size_t rank) const;
  TokenRange earlier(size_t rank, size_t piece) const;
  void pack(size_t source, size_t piece, std::span<std::byte> to) const;
  void unpack(const Transfers::Piece& piece) const;
  void add_pages(TokenRange pages, Pages& list) const;
  // Queries of a stretch of this rank's rows see all keys of `pages`; merged into out.
  void see(const Pages& pages, size_t first_row, size_t num_rows, const float* q, float* out,
           const CoreSet& cores);
  void attend_own(const float* q, float* out, const CoreSet& cores);
  void attend_received(std::span<const Transfers::Piece> pieces, const float* q, float* out,
                       const CoreSet& cores);

  comm::Communicator ranks_;
  Exchange exchange_;
  bool zigzag_, causal_;

  // Of begin():
  SharedPages* cache_ = nullptr;
  size_t sequence_ = 0;
  PagePlacement placement_;

  // Of one attend():
  kernels::AttentionShape shape_;
  Pages pages_;          // of the sequence, earlier ones and new ones
  Scratch<uint8_t> new_pages_;  // where they cannot be written in the cache
  Scratch<float> new_k_, new_v_;  // on their way there
  size_t page_bytes_ = 0;
  std::shared_ptr<Buffer> room_;  // of transfers
  Pages seen_by_front_, seen_by_back_;
  kernels::AttentionScratch attention_;
  Scratch<float> log_sums_, part_, part_log_sums_;
};

}  // namespace weft::parallel
