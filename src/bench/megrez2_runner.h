// A loaded mixture whose experts are exchanged (`weft bench megrez2`) or watched (`weft eval
// experts`), and sequences that it decodes.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "bench/megrez2_experts.h"
#include "formats/checkpoint.h"
#include "models/language_model.h"
#include "text/kv_cache.h"

namespace weft::bench {

class BenchMixture {
 public:
  BenchMixture(const std::filesystem::path& path, size_t sequences, size_t max_tokens,
               const CoreSet& cores);

  const formats::Checkpoint& checkpoint() const { return *checkpoint_; }
  ExchangedExperts& experts() const { return *experts_; }

  // Decodes `count` steps of the first `sequences`, from an empty context on; the routing's tokens
  // are first_routed, first_routed + 1, ... `each` is told of each step, and may throw. Seconds per
  // step.
  double decode(size_t count, size_t sequences, size_t first_routed, const CoreSet& cores,
                const ProgressFn& each = {});
  // The first sequence's first `count` tokens in one pass. Seconds.
  double prefill(size_t count, const CoreSet& cores);
  // The first sequence becomes what the model itself writes, from its first token on.
  void write(size_t count, const CoreSet& cores);
  // The first sequence becomes these, at most as many as max_tokens.
  void read(std::span<const models::Token> tokens);
  const std::vector<float>& logits() const { return logits_; }  // of the last step

 private:
  void step(size_t first, size_t count, size_t sequences, const CoreSet& cores);

  std::shared_ptr<const formats::Checkpoint> checkpoint_;
  ExchangedExperts* experts_ = nullptr;  // the model's
  std::unique_ptr<models::LanguageModel> model_;
  text::KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<text::SequenceId> sequences_;
  std::vector<std::vector<models::Token>> tokens_;  // by sequence
  std::vector<float> logits_;                       // (sequences, vocab_size)
};

}  // namespace weft::bench
