#include "text/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "text/kv_cache.h"
#include "text/logprob.h"

namespace weft::text {
namespace {

using models::LogitsWanted;
using models::Token;

constexpr size_t kMaxPieceTokens = 512;              // of one forward pass
constexpr size_t kMaxPieceLogits = size_t{1} << 24;  // of one forward pass: 64 MiB

struct Surprise {  // sums over the scored tokens, of -log p and its square
  double sum = 0, sum_of_squares = 0;
  size_t count = 0;
};

// Of the cache, in tokens of 16 bit.
size_t room(const PerplexityOptions& options) {
  if (!options.kv_policy) return options.window_tokens;
  return (options.kv_policy->blocks(0, options.window_tokens) + 1) * kernels::kPageTokens;
}

class Reader {
 public:
  Reader(const models::LanguageModel& model, const PerplexityOptions& options, const CoreSet& cores)
      : model_(model),
        cores_(cores),
        vocab_size_(model.config().vocab_size),
        scored_piece_(std::clamp<size_t>(kMaxPieceLogits / vocab_size_, 1, kMaxPieceTokens)),
        cache_({.num_layers = model.config().num_layers,
                .shape = model.kv_shape(),
                .format = options.kv_format,
                .capacity_tokens = room(options),
                .policy = options.kv_policy}),
        workspace_(model.make_workspace()) {}

  // `window`: as the model shall read it. The last token is scored, not read.
  void read(std::span<const Token> window, Surprise& surprise, StopToken stop) {
    const SequenceId sequence = cache_.create();
    const size_t half = window.size() / 2;
    for (size_t begin = 0, end = 0; begin < half; begin = end) {
      stop.throw_if_stopped();
      end = begin + std::min({kMaxPieceTokens, half - begin, cache_.max_piece(sequence)});
      forward(sequence, window, begin, end, LogitsWanted::kNone);
    }
    for (size_t begin = half, end = 0; begin + 1 < window.size(); begin = end) {
      stop.throw_if_stopped();
      end = begin +
            std::min({scored_piece_, window.size() - 1 - begin, cache_.max_piece(sequence)});
      logits_.resize((end - begin) * vocab_size_);
      forward(sequence, window, begin, end, LogitsWanted::kAll);
      score(window.subspan(begin + 1, end - begin), begin, surprise);
    }
    cache_.release(sequence);
  }

 private:
  void forward(SequenceId sequence, std::span<const Token> window, size_t begin, size_t end,
               LogitsWanted wanted) {
    WEFT_ASSERT(cache_.reserve(sequence, end - begin));
    const models::SequenceInput input = {.sequence = sequence,
                                         .tokens = window.subspan(begin, end - begin),
                                         .first_position = begin,
                                         .logits = wanted};
    model_.forward({&input, 1}, cache_, logits_.data(), *workspace_, cores_);
  }

  // next[i] follows the token that gave row i of the logits.
  void score(std::span<const Token> next, size_t first_position, Surprise& surprise) {
    surprises_.resize(next.size());
    cores_.parallel_for(next.size(), 8, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) {
        const std::span<const float> row(logits_.data() + i * vocab_size_, vocab_size_);
        surprises_[i] =
            -log_sum_exp(row, first_position + i + 1).logprob(row[static_cast<size_t>(next[i])]);
      }
    });
    for (const double s : surprises_) {
      surprise.sum += s;
      surprise.sum_of_squares += s * s;
      ++surprise.count;
    }
  }

  const models::LanguageModel& model_;
  const CoreSet& cores_;
  const size_t vocab_size_;
  const size_t scored_piece_;
  KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<float> logits_;
  std::vector<double> surprises_;
};

void check(const models::LanguageModelConfig& config, std::span<const Token> tokens,
           const PerplexityOptions& options) {
  const size_t window_tokens = options.window_tokens;
  if (window_tokens < 4 || window_tokens > config.context_length)
    fail(ErrorKind::kInvalidInput, "a window of {} tokens: this model reads 4 to {}", window_tokens,
         config.context_length);
  if (options.kv_policy && options.kv_policy->max_length() < window_tokens)
    fail(ErrorKind::kInvalidInput,
         "a window of {} tokens, but the KV budget holds {}. Give a larger --kv-budget or a smaller "
         "--context.",
         window_tokens, options.kv_policy->max_length());
  if (tokens.size() / 2 < window_tokens)
    fail(ErrorKind::kInvalidInput,
         "the text has {} tokens, but two windows of {} need {}. Take a longer text or a smaller "
         "--context.",
         tokens.size(), window_tokens, 2 * window_tokens);
  for (const Token token : tokens)
    if (token < 0 || static_cast<size_t>(token) >= config.vocab_size)
      fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
           config.vocab_size);
}

Perplexity summarise(const Surprise& surprise, size_t num_windows) {
  const auto count = static_cast<double>(surprise.count);
  const double mean = surprise.sum / count;
  const double variance = std::max(0.0, surprise.sum_of_squares / count - mean * mean);
  const double perplexity = std::exp(mean);
  // The mean's standard error, through the derivative of exp.
  const double error = count > 1 ? perplexity * std::sqrt(variance / (count - 1)) : 0;
  return {perplexity, error, num_windows, surprise.count};
}

}  // namespace

Perplexity measure_perplexity(const models::LanguageModel& model, std::span<const Token> tokens,
                              const PerplexityOptions& options, const CoreSet& cores,
                              StopToken stop, const ProgressFn& progress) {
  const size_t window_tokens = options.window_tokens;
  check(model.config(), tokens, options);
  const size_t num_windows = std::min(tokens.size() / window_tokens, options.max_windows);
  Reader reader(model, options, cores);
  Surprise surprise;
  std::vector<Token> window;
  for (size_t i = 0; i < num_windows; ++i) {
    const auto text = tokens.subspan(i * window_tokens, window_tokens);
    window.assign(text.begin(), text.end());
    if (options.first) window.front() = *options.first;
    reader.read(window, surprise, stop);
    if (progress) progress((i + 1) * window_tokens, num_windows * window_tokens);
  }
  return summarise(surprise, num_windows);
}

}  // namespace weft::text
