#include "text/embedding.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "text/kv_cache.h"

namespace weft::text {

std::vector<float> embed(const models::LanguageModel& model, std::span<const Token> tokens,
                         const CoresTurn& turn, std::shared_ptr<KvPool> pool) {
  constexpr size_t kPieceTokens = 256;
  const models::LanguageModelConfig& config = model.config();
  if (tokens.empty()) fail(ErrorKind::kInvalidInput, "the text to embed is empty");
  if (tokens.size() > config.context_length)
    fail(ErrorKind::kInvalidInput, "the text to embed has {} tokens; the model's limit is {}",
         tokens.size(), config.context_length);

  if (pool == nullptr)
    pool = std::make_shared<KvPool>(KvCacheOptions{.num_layers = config.num_layers,
                                                   .shape = model.kv_shape(),
                                                   .capacity_tokens = tokens.size()});
  KvCache cache(std::move(pool));
  const SequenceId sequence = cache.create();
  WEFT_ASSERT(cache.reserve(sequence, tokens.size()));
  const auto workspace = model.make_workspace();
  std::vector<float> hidden(std::min(tokens.size(), kPieceTokens) * config.hidden_size);
  std::vector<double> sum(config.hidden_size);
  for (size_t first = 0; first < tokens.size(); first += kPieceTokens) {
    const auto piece = tokens.subspan(first, std::min(kPieceTokens, tokens.size() - first));
    const models::SequenceInput input[] = {{.sequence = sequence,
                                            .tokens = piece,
                                            .first_position = first,
                                            .logits = models::LogitsWanted::kNone,
                                            .hidden = hidden.data()}};
    turn([&](const CoreSet& cores) { model.forward(input, cache, nullptr, *workspace, cores); });
    if (const Error* const error = workspace->failure(0)) throw *error;
    for (size_t i = 0; i < piece.size() * config.hidden_size; ++i)
      sum[i % config.hidden_size] += hidden[i];
  }

  double square = 0;
  for (const double value : sum) square += value * value;
  const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
  std::vector<float> out;
  for (const double value : sum) out.push_back(static_cast<float>(value * scale));
  return out;
}

}  // namespace weft::text
