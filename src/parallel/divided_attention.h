// Attention over sequences whose pages are divided among ranks (SharedPages::division): each attends
// to the pages that it has, for all queries, and what they find is gathered and put together in the
// order of the ranks, so that all get the same bits. For decoding and short pieces of prompts; long
// ones are ExchangedAttention's.
//
// On the wire, for each layer and token: num_heads (head_dim + 1) f32 from every rank to every other.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "comm/communicator.h"
#include "models/language_model.h"
#include "models/teams.h"
#include "parallel/shared_pages.h"

namespace weft::parallel {

class DividedAttention final : public models::SpreadAttention {
 public:
  explicit DividedAttention(comm::Communicator ranks) : ranks_(std::move(ranks)) {}

  // What the next calls of attend(), one for each layer, are about; the same on all ranks. Room in
  // `cache` is reserved.
  void begin(SharedPages& cache, std::span<const models::SequenceInput> batch);

  // kUnsupported: a sliding window.
  void attend(const kernels::AttentionShape& shape, size_t layer, const float* q, const float* k,
              const float* v, float* out, const CoreSet& cores) override;

 private:
  void add_calls(const models::SequenceInput& input, const std::vector<kernels::KvPage>& held,
                 const float* q, float* part, float* log_sums);

  comm::Communicator ranks_;
  SharedPages* cache_ = nullptr;
  std::span<const models::SequenceInput> batch_;
  kernels::AttentionShape shape_;
  std::vector<std::vector<kernels::KvPage>> held_;  // of each sequence, this rank's pages
  std::vector<kernels::AttentionCall> calls_;
  kernels::AttentionScratch attention_;
  Scratch<float> parts_;  // of all ranks: results and log-sum-exps
};

}  // namespace weft::parallel
