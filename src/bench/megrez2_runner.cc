#include "bench/megrez2_runner.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/random.h"
#include "base/seconds.h"

namespace weft::bench {

using models::Token;
using Clock = std::chrono::steady_clock;

BenchMixture::BenchMixture(const std::filesystem::path& path, size_t sequences, size_t max_tokens,
                           const CoreSet& cores)
    : checkpoint_(formats::open_checkpoint(path)),
      model_(models::load_language_model(checkpoint_, cores, {}, models::HeadLoading::kNow, nullptr,
                                         ExchangedExperts::opener(&experts_))),
      cache_({.num_layers = model_->config().num_layers,
              .shape = model_->kv_shape(),
              .capacity_tokens = sequences * (max_tokens + 64)}),
      workspace_(model_->make_workspace()),
      logits_(sequences * model_->config().vocab_size) {
  const auto vocab_size = static_cast<double>(model_->config().vocab_size);
  for (size_t s = 0; s < sequences; ++s) {
    sequences_.push_back(cache_.create());
    std::vector<Token>& tokens = tokens_.emplace_back();
    for (size_t i = 0; i < max_tokens; ++i)
      tokens.push_back(static_cast<Token>(uniform(1, s, static_cast<uint32_t>(i)) * vocab_size));
  }
}

void BenchMixture::step(size_t first, size_t count, size_t sequences, const CoreSet& cores) {
  std::vector<models::SequenceInput> batch;
  for (size_t s = 0; s < sequences; ++s) {
    WEFT_ASSERT(cache_.reserve(sequences_[s], count));
    batch.push_back({.sequence = sequences_[s],
                     .tokens = std::span(tokens_[s]).subspan(first, count),
                     .first_position = first});
  }
  model_->forward(batch, cache_, logits_.data(), *workspace_, cores);
}

double BenchMixture::decode(size_t count, size_t sequences, size_t first_routed,
                            const CoreSet& cores, const ProgressFn& each) {
  for (size_t s = 0; s < sequences; ++s) cache_.truncate(sequences_[s], 0);
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < count; ++i) {
    experts_->set_token(first_routed + i);
    step(i, 1, sequences, cores);
    if (each) each(i + 1, count);
  }
  return seconds_since(start) / static_cast<double>(count);
}

double BenchMixture::prefill(size_t count, const CoreSet& cores) {
  cache_.truncate(sequences_[0], 0);
  const Clock::time_point start = Clock::now();
  step(0, count, 1, cores);
  return seconds_since(start);
}

void BenchMixture::write(size_t count, const CoreSet& cores) {
  cache_.truncate(sequences_[0], 0);
  const auto vocab_size = static_cast<ptrdiff_t>(model_->config().vocab_size);
  for (size_t i = 0; i + 1 < count; ++i) {
    step(i, 1, 1, cores);
    const auto best = std::max_element(logits_.begin(), logits_.begin() + vocab_size);
    tokens_[0][i + 1] = static_cast<Token>(best - logits_.begin());
  }
}

void BenchMixture::read(std::span<const Token> tokens) {
  WEFT_ASSERT(tokens.size() <= tokens_[0].size());
  std::copy(tokens.begin(), tokens.end(), tokens_[0].begin());
}

}  // namespace weft::bench
