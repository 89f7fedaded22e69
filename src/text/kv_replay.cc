#include "text/kv_replay.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "text/logprob.h"

namespace weft::text {

using kernels::kPageTokens;

namespace {

size_t plain_tokens(size_t length) { return (length + kPageTokens - 1) / kPageTokens * kPageTokens; }

std::shared_ptr<const KvPolicy> make_policy(const ReplayMethod& method, size_t num_layers,
                                            const kernels::KvShape& shape, size_t length) {
  KvPolicyOptions options = method.policy;
  if (options.mode == KvMode::kPlain) return nullptr;
  if (options.mode == KvMode::kProgressive && options.budget_bytes == 0)
    options.budget_bytes = direct_peak_bytes(options, num_layers, shape, length);
  if (options.max_length == 0) options.max_length = length;
  auto policy = std::make_shared<const KvPolicy>(options, num_layers, shape);
  if (policy->max_length() < length)
    fail(ErrorKind::kInvalidInput, "the budget holds {} of {} tokens", policy->max_length(), length);
  return policy;
}

}  // namespace

ReplayCache::ReplayCache(const ReplayMethod& method, const models::LanguageModelConfig& config,
                         const kernels::KvShape& shape, size_t length)
    : name_(method.name) {
  const size_t layers = config.num_layers;
  try {
    if (method.foreign) {
      ForeignKv foreign = *method.foreign;
      if (foreign.format == ForeignKv::Format::kTwoTier && foreign.budget_bytes == 0)
        foreign.budget_bytes = direct_peak_bytes({.widths = foreign.widths}, layers, shape, length);
      foreign_.emplace(foreign, shape, layers, length);
      for (size_t p = 1; p <= length; ++p) peak_bytes_ = std::max(peak_bytes_, foreign_->bytes(p));
      return;
    }
    const auto policy = make_policy(method, layers, shape, length);
    const size_t room =
        policy ? policy->peak_blocks(length) * kPageTokens : plain_tokens(length);
    // Twice: a branch is a copy.
    engine_.emplace(KvCacheOptions{
        .num_layers = layers, .shape = shape, .capacity_tokens = 2 * room, .policy = policy});
    sequence_ = engine_->create();
    peak_bytes_ = room / kPageTokens * layers * shape.page_bytes(kernels::KvFormat::kF16);
  } catch (const Error& error) {
    fail(error.kind(), "method '{}': {}", method.name, error.what());
  }
}

kernels::KvStore& ReplayCache::store() {
  if (engine_) return *engine_;
  return *foreign_;
}

size_t ReplayCache::bytes() const {
  return engine_ ? engine_->usage(sequence_).block_bytes : foreign_->bytes(stored_);
}

size_t ReplayCache::next_piece(size_t num_tokens) {
  if (!engine_) return num_tokens;
  const size_t count = std::min(num_tokens, engine_->max_piece(sequence_));
  const bool has_room = engine_->reserve(sequence_, count);
  WEFT_ASSERT(has_room && bytes() <= peak_bytes_);  // what the policy asked for
  return count;
}

void ReplayCache::branch() {
  WEFT_ASSERT(!trunk_ && !foreign_trunk_);
  trunk_stored_ = stored_;
  if (engine_) {
    trunk_ = sequence_;
    sequence_ = engine_->fork(sequence_, stored_);
    WEFT_ASSERT(engine_->length(sequence_) == stored_);
  } else {
    foreign_trunk_ = foreign_;
  }
}

void ReplayCache::rejoin() {
  WEFT_ASSERT(trunk_ || foreign_trunk_);
  stored_ = trunk_stored_;
  if (engine_) {
    engine_->release(sequence_);
    sequence_ = *std::exchange(trunk_, std::nullopt);
  } else {
    foreign_ = std::move(foreign_trunk_);
    foreign_trunk_.reset();
  }
}

void ReplayCache::forward(const models::LanguageModel& model,
                          std::span<const models::Token> tokens, models::LogitsWanted wanted,
                          float* logits, models::Workspace& workspace, const CoreSet& cores) {
  using models::LogitsWanted;
  for (size_t done = 0; done < tokens.size();) {
    const size_t count = next_piece(tokens.size() - done);
    const bool is_last = done + count == tokens.size();
    const models::SequenceInput input = {
        .sequence = sequence_,
        .tokens = tokens.subspan(done, count),
        .first_position = stored_,
        .logits = wanted == LogitsWanted::kLast && !is_last ? LogitsWanted::kNone : wanted};
    float* const out =
        wanted == LogitsWanted::kAll ? logits + done * model.config().vocab_size : logits;
    model.forward({&input, 1}, store(), out, workspace, cores);
    done += count;
    stored_ += count;
    if (!engine_) continue;
    if (const auto bad = engine_->bad_value(sequence_))
      fail(ErrorKind::kInvalidInput, "method '{}': layer {}, position {}: a {} is not a number",
           name_, bad->layer, bad->position, bad->is_key ? "key" : "value");
  }
}

// ---- comparing

double ReplayBucket::perplexity() const { return std::exp(surprise / static_cast<double>(tokens)); }
double ReplayBucket::exact_perplexity() const {
  return std::exp(exact_surprise / static_cast<double>(tokens));
}

double ReplayBucket::kl_quantile(double q) const {
  std::vector<float> sorted = token_kl;
  if (sorted.empty()) return 0;
  const auto place = static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  const size_t index = std::min(sorted.size() - 1, place == 0 ? 0 : place - 1);
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(index), sorted.end());
  return static_cast<double>(sorted[index]);
}

double ReplayBucket::kl_standard_error() const {
  if (tokens < 2) return 0;
  double squares = 0;
  for (const float x : token_kl) squares += std::pow(static_cast<double>(x) - mean_kl(), 2);
  return std::sqrt(squares / static_cast<double>(tokens - 1) / static_cast<double>(tokens));
}

ReplayBucket ReplayResult::total() const {
  ReplayBucket sum;
  for (const ReplayBucket& b : buckets) {
    sum.tokens += b.tokens;
    sum.surprise += b.surprise;
    sum.exact_surprise += b.exact_surprise;
    sum.kl += b.kl;
    sum.agree += b.agree;
    sum.token_kl.insert(sum.token_kl.end(), b.token_kl.begin(), b.token_kl.end());
  }
  return sum;
}

namespace {

struct TokenScore {
  double surprise = 0, exact_surprise = 0, kl = 0;
  bool agrees = false;
};

TokenScore score(std::span<const float> exact, std::span<const float> got, size_t next,
                 size_t position) {
  const LogSum a = log_sum_exp(exact, position), b = log_sum_exp(got, position);
  TokenScore s{.surprise = -b.logprob(got[next]), .exact_surprise = -a.logprob(exact[next])};
  size_t best_exact = 0, best = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    if (exact[i] > exact[best_exact]) best_exact = i;
    if (got[i] > got[best]) best = i;
    const double log_p = a.logprob(exact[i]);
    // The rest of the vocabulary, together, adds less than f32 logits are exact to.
    if (log_p > -25) s.kl += std::exp(log_p) * (log_p - b.logprob(got[i]));
  }
  s.kl = std::max(0.0, s.kl);
  s.agrees = best_exact == best;
  return s;
}

}  // namespace

std::vector<ReplayResult> replay_kv(const models::LanguageModel& model,
                                    std::span<const models::Token> tokens,
                                    std::span<const ReplayMethod> methods,
                                    const ReplayOptions& options, const CoreSet& cores,
                                    StopToken stop, const ProgressFn& progress) {
  const models::LanguageModelConfig& config = model.config();
  if (tokens.size() < 2 || tokens.size() > config.context_length + 1)
    fail(ErrorKind::kInvalidInput, "a text of {} tokens: this model replays 2 to {}", tokens.size(),
         config.context_length + 1);
  const size_t length = tokens.size() - 1, vocabulary = config.vocab_size;
  ReplayCache exact({.name = "16 bit"}, config, model.kv_shape(), length);
  std::vector<ReplayResult> results;
  std::vector<std::unique_ptr<ReplayCache>> caches;
  for (const ReplayMethod& method : methods) {
    caches.push_back(std::make_unique<ReplayCache>(method, config, model.kv_shape(), length));
    ReplayResult& r = results.emplace_back();
    r.method = method;
    r.buckets.resize((length + options.bucket_tokens - 1) / options.bucket_tokens);
    r.peak_bytes = caches.back()->peak_bytes();
  }
  const auto workspace = model.make_workspace();
  std::vector<float> exact_logits(options.pass_tokens * vocabulary), logits(exact_logits.size());
  std::vector<TokenScore> scores(options.pass_tokens);
  for (size_t begin = 0; begin < length; begin += options.pass_tokens) {
    const size_t count = std::min(options.pass_tokens, length - begin);
    const auto forward = [&](ReplayCache& cache, std::vector<float>& out) {
      stop.throw_if_stopped();
      cache.forward(model, tokens.subspan(begin, count), models::LogitsWanted::kAll, out.data(),
                    *workspace, cores);
    };
    forward(exact, exact_logits);
    for (size_t m = 0; m < caches.size(); ++m) {
      forward(*caches[m], logits);
      results[m].mean_bytes += static_cast<double>(caches[m]->bytes()) *
                               static_cast<double>(count) / static_cast<double>(length);
      cores.parallel_for(count, 4, [&](size_t first, size_t end, size_t) {
        for (size_t i = first; i < end; ++i)
          scores[i] = score({exact_logits.data() + i * vocabulary, vocabulary},
                            {logits.data() + i * vocabulary, vocabulary},
                            static_cast<size_t>(tokens[begin + i + 1]), begin + i);
      });
      for (size_t i = 0; i < count; ++i) {
        ReplayBucket& b = results[m].buckets[(begin + i) / options.bucket_tokens];
        ++b.tokens;
        b.surprise += scores[i].surprise;
        b.exact_surprise += scores[i].exact_surprise;
        b.kl += scores[i].kl;
        b.agree += scores[i].agrees ? 1 : 0;
        b.token_kl.push_back(static_cast<float>(scores[i].kl));
      }
    }
    if (progress) progress(begin + count, length);
  }
  return results;
}

}  // namespace weft::text
