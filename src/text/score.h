// How likely a model finds each token of a text that is given: what evaluations add up, to compare
// answers that others wrote.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "text/embedding.h"
#include "text/sampler.h"

namespace weft::text {

// Of each token but the first, which nothing precedes: its log-probability after those before it,
// and the `num_top` likeliest in its place. kInvalidInput: no token, more than the model's context
// holds, one outside the vocabulary. `turn`, `pool`: as embed().
std::vector<Sampled> score(const models::LanguageModel& model, std::span<const Token> tokens,
                           size_t num_top, const CoresTurn& turn,
                           std::shared_ptr<KvPool> pool = nullptr);
// Of so many tokens at a time logits are computed.
inline constexpr size_t kScorePiece = 64;

}  // namespace weft::text
