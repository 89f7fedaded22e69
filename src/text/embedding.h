// A text as one vector: the mean over its tokens of the model's last hidden states (after the final
// norm), scaled to length 1. What models that were not trained for it offer as an embedding.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "models/language_model.h"

namespace weft::text {

using models::Token;

// Runs body(cores), a piece of work, on cores of its choice. A server lets others have them between
// two pieces.
using CoresTurn = std::function<void(const std::function<void(const CoreSet&)>& body)>;

// (hidden_size). `tokens` is not empty, and no longer than the model's context: kInvalidInput.
std::vector<float> embed(const models::LanguageModel& model, std::span<const Token> tokens,
                         const CoresTurn& turn);

}  // namespace weft::text
