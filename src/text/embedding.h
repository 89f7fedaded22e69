// A text as one vector: the mean over its tokens of the model's last hidden states (after the final
// norm), scaled to length 1. What models that were not trained for it offer as an embedding.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "models/language_model.h"
#include "text/kv_pool.h"

namespace weft::text {

// Runs body(cores), a piece of work, on cores of its choice. A server lets others have them between
// two pieces.
using CoresTurn = std::function<void(const std::function<void(const CoreSet&)>& body)>;

// (hidden_size). `tokens` is not empty, and no longer than the model's context: kInvalidInput.
// `pool`: room for the tokens, instead of memory of its own.
std::vector<float> embed(const models::LanguageModel& model, std::span<const Token> tokens,
                         const CoresTurn& turn, std::shared_ptr<KvPool> pool = nullptr);

}  // namespace weft::text
