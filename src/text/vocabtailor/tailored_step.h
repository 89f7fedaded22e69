// The heads of one step: one product over each shared packed head for all the requests that use it,
// then each request's own tail. A request sees its own set alone, as logits over the whole vocabulary
// that are -inf outside: sampler, penalties, grammars and stop logic need not know.
//
// Owned by one engine thread. Steady state allocates nothing but the rows that
// screen() gathers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "kernels/linear.h"
#include "kernels/row_sketch.h"
#include "text/vocabtailor/tailored_request.h"

namespace weft::text {

class TailoredStep {
 public:
  void clear() { rows_.clear(); }
  // Requests in any order; `hidden` (hidden_size) is looked at by compute(). Gives the row's index.
  size_t add(const TailoredRequest& request, const float* hidden);
  bool empty() const { return rows_.empty(); }
  void compute(const CoreSet& cores);

  std::span<const float> base_logits(size_t row) const;
  std::span<const float> tail_logits(size_t row) const;
  // The likeliest token of the set, lowest id first; what `allowed` (null: all) leaves of it. -1: none.
  Token best(size_t row, const TokenMask* allowed = nullptr) const;
  const float* hidden(size_t row) const { return rows_[row].hidden; }

  // Mode kScreen: adds to the row's set, until give_back(), the tokens outside that may come within
  // `reach` of the best logit, as far as the model's sketch can tell. Likely ones first, at most 1024.
  struct Screening {
    const TokenMask* allowed = nullptr;   // null: all
    std::span<const Token> lowered = {};  // penalties may push them down: no yardsticks
    float reach = 0;
  };
  // How many it added; nothing where the set has no token to compare with.
  std::optional<size_t> screen(size_t row, const Screening& how, const CoreSet& cores);

  // Valid until give_back(), which must follow before the next spread().
  std::span<float> spread(size_t row);
  void give_back(size_t row);

 private:
  struct Row {
    const TailoredRequest* request;
    const float* hidden;
    size_t base_at, tail_at;  // in logits_
  };
  template <typename Visit>
  void for_each(size_t row, Visit&& visit) const;
  void add_hits(size_t row, size_t begin, size_t end);

  std::vector<Row> rows_;
  std::vector<size_t> order_;  // rows_, those of one packed head together
  Scratch<float> logits_, gathered_;
  kernels::Activations activations_;
  std::vector<float> spread_;  // (vocab_size), -inf between uses

  // What screen() found for a row.
  kernels::SketchQuery query_;
  std::vector<kernels::SketchHit> hits_;
  std::vector<uint32_t> added_;
  std::vector<float> added_logits_;
  std::vector<Token> lowered_;  // sorted
};

}  // namespace weft::text
