#include "text/vocabtailor/tailored_request.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace weft::text {
namespace {

// Escapes above this share of a window's steps make the whole head the cheaper one: a step that
// escapes costs both. (|S| / V, at most kLargestSetShare, would be the exact bound; taste.)
constexpr size_t kWindowSteps = 256, kMostWindowEscapes = 96;
// Rows that escapes add are packed anew one by one, until there are so many.
constexpr size_t kMostAdded = 32;
constexpr size_t kMostDrafts = 16;

struct Spread {
  double top_probability, entropy;
};

// Of the softmax over all logits given. Terms below e^-20 of the largest are left out: 10^5 of them
// change neither figure by 1e-3.
Spread spread_of(std::span<const float> a, std::span<const float> b) {
  float max = -std::numeric_limits<float>::infinity();
  for (const auto part : {a, b})
    for (const float logit : part) max = std::max(max, logit);
  double sum = 0, weighted = 0;
  for (const auto part : {a, b}) {
    for (const float logit : part) {
      const float below = logit - max;
      if (below < -20) continue;
      const double weight = std::exp(double{below});
      sum += weight;
      weighted += weight * below;
    }
  }
  return {1 / sum, std::log(sum) - weighted / sum};
}

}  // namespace

TailoredRequest::TailoredRequest(const VocabChoice& choice, std::span<const Token> prompt,
                                 const SamplingOptions& sampling, const CoreSet& cores)
    : head_(choice.head), draft_tokens_(choice.draft_tokens) {
  WEFT_ASSERT(head_ != nullptr && choice.mode != VocabMode::kOff);
  if (draft_tokens_ == 0 || draft_tokens_ > kMostDrafts)
    fail(ErrorKind::kInvalidInput, "draft_tokens is {}, but must be between 1 and {}",
         draft_tokens_, kMostDrafts);
  use_.mode = choice.mode;
  const auto want = [this](Token token) {
    const auto id = static_cast<uint32_t>(token);
    if (token >= 0 && id < head_->num_selectable() && !head_->set().contains(token))
      tail_ids_.push_back(id);
  };
  if (choice.mode != VocabMode::kStatic)
    for (const Token token : prompt) want(token);
  for (const auto& [token, bias] : sampling.logit_bias)
    if (bias > 0) want(token);
  std::sort(tail_ids_.begin(), tail_ids_.end());
  tail_ids_.erase(std::unique(tail_ids_.begin(), tail_ids_.end()), tail_ids_.end());
  use_.static_size = head_->set().size();
  use_.dynamic_size = tail_ids_.size();
  use_.size = use_.static_size + use_.dynamic_size;
  const size_t vocab_size = head_->set().vocab_size();
  if (static_cast<double>(use_.size) > kLargestSetShare * static_cast<double>(vocab_size)) {
    use_.whole = true;
    use_.size = vocab_size;
    return;
  }
  if (!tail_ids_.empty())
    tails_.push_back(kernels::Linear::pack_rows(head_->model().head_weight(), tail_ids_, cores));
  if (use_.mode == VocabMode::kDraft)
    drafts_.resize(draft_tokens_ * head_->model().config().hidden_size);
}

size_t TailoredRequest::tail_bytes() const {
  size_t bytes = tail_ids_.size() * sizeof(uint32_t);
  for (const kernels::Linear& tail : tails_) bytes += tail.packed_bytes();
  return bytes;
}

TokenMask TailoredRequest::mask() const {
  TokenMask mask = head_->set().mask();
  for (const uint32_t id : tail_ids_) mask.allow(static_cast<Token>(id));
  return mask;
}

bool TailoredRequest::in_tail(Token token) const {
  const auto id = static_cast<uint32_t>(token);
  const auto sorted_end = tail_ids_.end() - static_cast<ptrdiff_t>(num_added_);
  return std::binary_search(tail_ids_.begin(), sorted_end, id) ||
         std::find(sorted_end, tail_ids_.end(), id) != tail_ids_.end();
}

bool TailoredRequest::escapes(std::span<const float> base_logits,
                              std::span<const float> tail_logits, Token best_token,
                              size_t position) {
  audit_ = false;
  if (use_.mode != VocabMode::kVerify) return false;
  const VerifySignals& signals = head_->signals();
  const Spread spread = spread_of(base_logits, tail_logits);
  bool asks = spread.top_probability < signals.least_top_probability ||
              spread.entropy > signals.most_entropy || head_->is_fallback_byte(best_token);
  if (!asks && signals.audit_every != 0 && position % signals.audit_every == 0)
    asks = audit_ = true;
  count_escape(asks && !audit_);
  return asks;
}

// Too many escapes in a window, and the request goes on with the whole head.
void TailoredRequest::count_escape(bool escaped) {
  window_escapes_ += escaped ? 1 : 0;
  if (++window_steps_ < kWindowSteps) return;
  if (window_escapes_ > kMostWindowEscapes) {
    use_.whole = true;
    use_.size = head_->set().vocab_size();
  }
  window_steps_ = window_escapes_ = 0;
}

void TailoredRequest::escaped(Token token, const CoreSet& cores) {
  ++use_.escapes;
  use_.audits += audit_ ? 1 : 0;
  if (contains(token)) return;
  ++use_.misses;
  use_.audit_misses += audit_ ? 1 : 0;
  if (static_cast<size_t>(token) < head_->num_selectable())
    grow(static_cast<uint32_t>(token), cores);
}

void TailoredRequest::screened(size_t num_rows, Token token, const CoreSet& cores) {
  use_.screened += num_rows;
  use_.escapes += num_rows != 0 ? 1 : 0;
  if (contains(token)) return;
  ++use_.misses;
  grow(static_cast<uint32_t>(token), cores);
}

void TailoredRequest::grow(uint32_t id, const CoreSet& cores) {
  const TensorView weight = head_->model().head_weight();
  tail_ids_.push_back(id);
  if (num_added_ != 0) tails_.pop_back();
  if (++num_added_ == kMostAdded) {
    std::sort(tail_ids_.begin(), tail_ids_.end());
    tails_.clear();
    tails_.push_back(kernels::Linear::pack_rows(weight, tail_ids_, cores));
    num_added_ = 0;
  } else {
    const std::span<const uint32_t> added = std::span(tail_ids_).last(num_added_);
    tails_.push_back(kernels::Linear::pack_rows(weight, added, cores));
  }
  ++use_.dynamic_size;
  if (!use_.whole) ++use_.size;
}

std::span<float> TailoredRequest::add_draft() {
  const size_t hidden_size = drafts_.size() / draft_tokens_;
  WEFT_ASSERT(num_drafts_ < draft_tokens_);
  return std::span(drafts_).subspan(num_drafts_++ * hidden_size, hidden_size);
}

void TailoredRequest::verified(size_t num_accepted, size_t num_sampled) {
  use_.rejected += num_sampled - num_accepted;
  ++use_.escapes;
  num_drafts_ = 0;
}

}  // namespace weft::text
