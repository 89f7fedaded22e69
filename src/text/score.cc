#include "text/score.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "text/kv_cache.h"
#include "text/logprob.h"

namespace weft::text {
namespace {

Sampled score_one(std::span<const float> logits, Token token, size_t position, size_t num_top,
                  std::vector<Token>& ids) {
  const LogSum sum = log_sum_exp(logits, position);
  Sampled out{.token = token,
              .logprob = static_cast<float>(sum.logprob(logits[static_cast<size_t>(token)])),
              .top = {}};
  ids.resize(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + static_cast<ptrdiff_t>(std::min(num_top, ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](Token a, Token b) {
    const float of_a = logits[static_cast<size_t>(a)], of_b = logits[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  for (auto id = ids.begin(); id != end; ++id)
    out.top.push_back({*id, static_cast<float>(sum.logprob(logits[static_cast<size_t>(*id)]))});
  return out;
}

}  // namespace

std::vector<Sampled> score(const models::LanguageModel& model, std::span<const Token> tokens,
                           size_t num_top, const CoresTurn& turn, std::shared_ptr<KvPool> pool) {
  const models::LanguageModelConfig& config = model.config();
  if (tokens.empty()) fail(ErrorKind::kInvalidInput, "the text to score is empty");
  if (tokens.size() > config.context_length)
    fail(ErrorKind::kInvalidInput, "the text to score has {} tokens; the model's limit is {}",
         tokens.size(), config.context_length);
  for (const Token token : tokens)
    if (token < 0 || static_cast<size_t>(token) >= config.vocab_size)
      fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
           config.vocab_size);

  const auto read = tokens.first(tokens.size() - 1);  // what follows the last one is not asked
  std::vector<Sampled> out;
  if (read.empty()) return out;
  if (pool == nullptr)
    pool = std::make_shared<KvPool>(KvCacheOptions{.num_layers = config.num_layers,
                                                   .shape = model.kv_shape(),
                                                   .capacity_tokens = read.size()});
  KvCache cache(std::move(pool));
  const SequenceId sequence = cache.create();
  WEFT_ASSERT(cache.reserve(sequence, read.size()));
  const auto workspace = model.make_workspace();
  std::vector<Token> ids;
  for (size_t first = 0; first < read.size(); first += kScorePiece) {
    const auto piece = read.subspan(first, std::min(kScorePiece, read.size() - first));
    const models::SequenceInput input[] = {{.sequence = sequence,
                                            .tokens = piece,
                                            .first_position = first,
                                            .logits = models::LogitsWanted::kAll}};
    // Others may use the memory of the logits as soon as the turn is over.
    turn([&](const CoreSet& cores) {
      float* const logits = workspace->logits(piece.size() * config.vocab_size);
      model.forward(input, cache, logits, *workspace, cores);
      if (workspace->failure(0) != nullptr) return;
      for (size_t i = 0; i < piece.size(); ++i)
        out.push_back(score_one({logits + i * config.vocab_size, config.vocab_size},
                                tokens[first + i + 1], first + i + 1, num_top, ids));
    });
    if (const Error* const error = workspace->failure(0)) throw *error;
  }
  return out;
}

}  // namespace weft::text
