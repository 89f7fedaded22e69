// How much worse a model predicts when its cache is kept in fewer bits: a text is replayed with the
// cache evolving as it would in generation, next to the 16-bit cache, and the distributions of each
// next token are compared (pm-kvq.md §5.3). Progressive narrowing gains only in time, so one
// prefill over a whole text would show nothing.
//
// PM-KVQ's methods run on the engine's own text::KvCache, in a pool of their own blocks, so
// it is the engine that is judged; formats of others are rounding filters (text/foreign_kv.h). What a
// token's query sees is a function of its position in all of them, so the replay runs in large passes
// and computes what token by token would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "models/language_model.h"
#include "text/foreign_kv.h"
#include "text/kv_cache.h"

namespace weft::text {

struct ReplayMethod {
  std::string name;
  // The engine's; kPlain: 16 bit. Progressive without a budget gets the bytes that direct storage in
  // its final widths takes at its largest, and the text's length.
  KvPolicyOptions policy = {};
  std::optional<ForeignKv> foreign = {};  // instead; kTwoTier without a budget as above
};

// One sequence under a method, of up to `length` tokens.
class ReplayCache {
 public:
  // As KvPolicy and ForeignKvCache; kInvalidInput too where a budget does not hold `length` tokens.
  // The message names the method.
  ReplayCache(const ReplayMethod& method, const models::LanguageModelConfig& config,
              const kernels::KvShape& shape, size_t length);

  // One pass more over `tokens`, or over as many pieces as the method asks for. logits: (tokens,
  // vocab_size) with kAll, (1, vocab_size) with kLast.
  void forward(const models::LanguageModel& model, std::span<const models::Token> tokens,
               models::LogitsWanted wanted, float* logits, models::Workspace& workspace,
               const CoreSet& cores);

  // What follows is forgotten by rejoin(): several questions about one text.
  void branch();
  void rejoin();

  size_t length() const { return stored_; }
  size_t bytes() const;                              // now
  size_t peak_bytes() const { return peak_bytes_; }  // of `length` tokens

 private:
  kernels::KvStore& store();
  size_t next_piece(size_t num_tokens);

  std::string name_;
  std::optional<KvCache> engine_;
  SequenceId sequence_ = 0;
  std::optional<ForeignKvCache> foreign_, foreign_trunk_;
  std::optional<SequenceId> trunk_;
  size_t stored_ = 0, trunk_stored_ = 0, peak_bytes_ = 0;
};

struct ReplayBucket {  // of positions
  size_t tokens = 0;
  double surprise = 0;          // sums: of -log p(next token)
  double exact_surprise = 0;    // the 16-bit cache's
  double kl = 0;                // of KL(16-bit || method)
  size_t agree = 0;             // tokens whose most probable successor is the same
  std::vector<float> token_kl;  // of each token

  double perplexity() const;
  double exact_perplexity() const;
  double mean_kl() const { return kl / static_cast<double>(tokens); }
  double kl_quantile(double q) const;
  // Of the mean KL, as if tokens were independent.
  double kl_standard_error() const;
};

struct ReplayResult {
  ReplayMethod method;
  std::vector<ReplayBucket> buckets;
  size_t peak_bytes = 0;
  double mean_bytes = 0;

  ReplayBucket total() const;
};

struct ReplayOptions {
  size_t bucket_tokens = 1024;
  size_t pass_tokens = 256;
};

// Replays `tokens` (2 at least; the last is predicted, not read) under every method.
std::vector<ReplayResult> replay_kv(const models::LanguageModel& model,
                                    std::span<const models::Token> tokens,
                                    std::span<const ReplayMethod> methods,
                                    const ReplayOptions& options, const CoreSet& cores,
                                    StopToken stop = {}, const ProgressFn& progress = {});

}  // namespace weft::text
