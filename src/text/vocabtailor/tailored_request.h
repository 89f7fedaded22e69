// One request's tailored head: a packed head that it shares with others, and a tail of its own with
// the rows of its prompt's tokens. Owned by one engine thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/linear.h"
#include "text/sampler.h"
#include "text/vocabtailor/packed_head.h"

namespace weft::text {

class TailoredRequest {
 public:
  // `prompt`: the whole conversation, wherever its keys and values come from. Tokens with a positive
  // logit_bias are in the set in every mode. kInvalidInput: draft_tokens out of range.
  TailoredRequest(const VocabChoice& choice, std::span<const Token> prompt,
                  const SamplingOptions& sampling, const CoreSet& cores);

  VocabMode mode() const { return use_.mode; }
  const PackedHead& head() const { return *head_; }
  // The request computes the whole head at every step, as without tailoring.
  bool whole() const { return use_.whole; }
  bool contains(Token token) const { return head_->set().contains(token) || in_tail(token); }
  TokenMask mask() const;  // of the set
  VocabUse use() const { return use_; }

  // The request's own tokens; the first of tails() has as many outputs as it has rows, then the next.
  std::span<const uint32_t> tail_ids() const { return tail_ids_; }
  std::span<const kernels::Linear> tails() const { return tails_; }
  size_t tail_bytes() const;

  // What step number `position` of the sequence says: `logits` of the set, in any order; `best_token`
  // is their best. True: ask the whole head.
  bool escapes(std::span<const float> base_logits, std::span<const float> tail_logits,
               Token best_token, size_t position);
  // After the whole head was asked at a step: `token` is what was sampled from it.
  void escaped(Token token, const CoreSet& cores);
  // kScreen: `num_rows` outside the set were computed at a step, and `token` was sampled from all.
  void screened(size_t num_rows, Token token, const CoreSet& cores);
  void sampled() { ++use_.steps; }

  // kDraft: hidden states that wait for the whole head, (num_drafts(), hidden_size).
  size_t draft_tokens() const { return draft_tokens_; }
  size_t num_drafts() const { return num_drafts_; }
  std::span<float> add_draft();
  const float* drafts() const { return drafts_.data(); }
  void verified(size_t num_accepted, size_t num_sampled);  // the drafts are gone

 private:
  bool in_tail(Token token) const;
  void grow(uint32_t id, const CoreSet& cores);
  void count_escape(bool escaped);

  std::shared_ptr<const PackedHead> head_;
  VocabUse use_;
  std::vector<uint32_t> tail_ids_;      // the prompt's ascending, then those that escapes added
  std::vector<kernels::Linear> tails_;  // none, the prompt's, or with one of added rows
  size_t num_added_ = 0;                // of tail_ids_, in the last of tails_
  bool audit_ = false;                  // the last escape was one
  size_t window_steps_ = 0, window_escapes_ = 0;
  size_t draft_tokens_, num_drafts_ = 0;
  std::vector<float> drafts_;
};

}  // namespace weft::text
