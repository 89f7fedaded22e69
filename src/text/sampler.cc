#include "text/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "text/logprob.h"

namespace weft::text {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// True too for NaN, so that a NaN is found by the pass that looks for large values.
bool exceeds(float value, float threshold) { return !(value <= threshold); }

void check_range(const char* option, float value, bool valid, const char* range) {
  if (!valid) fail(ErrorKind::kInvalidInput, "{} is {}, but must be {}", option, value, range);
}

}  // namespace

float logit_reach(const SamplingOptions& o) {
  if (o.temperature == 0 || o.top_k == 1) return 0;
  constexpr float kThousandth = 7;  // e^-7
  const float reach = kThousandth * o.temperature;
  return o.min_p > 0 ? std::min(reach, -std::log(o.min_p)) : reach;  // min-p comes before temperature
}

std::span<const Token> penalised(const SamplingOptions& o, std::span<const Token> history) {
  return history.last(o.penalty_last_n < 0
                          ? history.size()
                          : std::min(static_cast<size_t>(o.penalty_last_n), history.size()));
}

bool lowers_used_tokens(const SamplingOptions& o) {
  return o.repetition_penalty > 1 || o.presence_penalty > 0 || o.frequency_penalty > 0;
}

void validate(const SamplingOptions& o) {
  const auto between = [](float value, float low, float high) {
    return value >= low && value <= high;
  };
  check_range("temperature", o.temperature, o.temperature >= 0 && std::isfinite(o.temperature),
              "a number of at least 0 (0: always the likeliest token)");
  check_range("top_p", o.top_p, o.top_p > 0 && o.top_p <= 1, "above 0 and at most 1 (1: off)");
  check_range("min_p", o.min_p, between(o.min_p, 0, 1), "between 0 (off) and 1");
  check_range("typical_p", o.typical_p, o.typical_p > 0 && o.typical_p <= 1,
              "above 0 and at most 1 (1: off)");
  check_range("repetition_penalty", o.repetition_penalty,
              o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty),
              "a number above 0 (1: off)");
  check_range("presence_penalty", o.presence_penalty, between(o.presence_penalty, -2, 2),
              "between -2 and 2 (0: off)");
  check_range("frequency_penalty", o.frequency_penalty, between(o.frequency_penalty, -2, 2),
              "between -2 and 2 (0: off)");
  if (o.penalty_last_n < -1)
    fail(ErrorKind::kInvalidInput,
         "penalty_last_n is {}, but must be a number of tokens, 0 (off) or -1 (all)",
         o.penalty_last_n);
  for (const auto& [token, bias] : o.logit_bias) {
    if (token < 0)
      fail(ErrorKind::kInvalidInput, "logit_bias names token {}, but ids begin at 0", token);
    if (std::isnan(bias) || bias == kInfinity)
      fail(ErrorKind::kInvalidInput,
           "logit_bias of token {} is {}, but must be a number or -inf (never this token)", token,
           bias);
  }
}

Sampler::Sampler(SamplingOptions options, uint64_t request)
    : options_(std::move(options)), request_(request) {
  validate(options_);
}

Sampled Sampler::sample(std::span<float> logits, std::span<const Token> history, bool want_logprob,
                        size_t num_top, const TokenMask* allowed) {
  WEFT_ASSERT(!logits.empty());
  const size_t position = history.size();
  changed_.clear();  // of a call that threw
  Sampled sampled;
  LogSum sum;
  if (num_top > 0) want_logprob = true;
  if (want_logprob) sum = log_sum_exp(logits, position);
  if (num_top > 0) {
    select_best(logits, num_top, position, best_);
    sampled.top.reserve(best_.size());
    for (const Candidate& c : best_)
      sampled.top.push_back({c.token, static_cast<float>(sum.logprob(c.logit))});
  }
  sampled.token = choose_from(allowed != nullptr ? masked(logits, *allowed) : logits, history);
  if (want_logprob)
    sampled.logprob = static_cast<float>(sum.logprob(logits[static_cast<size_t>(sampled.token)]));
  return sampled;
}

Token Sampler::choose_from(std::span<float> logits, std::span<const Token> history) {
  apply_bias(logits);
  apply_penalties(logits, history);
  const Token token = choose(logits, history.size());
  undo_changes(logits);
  return token;
}

// On a copy: most tokens are banned as a rule, too many to be undone one by one.
std::span<float> Sampler::masked(std::span<const float> logits, const TokenMask& allowed) {
  constexpr size_t kWord = 64;
  masked_.assign(logits.size(), -kInfinity);
  const size_t size = std::min(logits.size(), allowed.size());
  for (size_t start = 0; start < size; start += kWord) {
    const uint64_t word = allowed.words()[start / kWord];
    if (word == 0) continue;
    const size_t count = std::min(kWord, size - start);
    for (size_t bit = 0; bit < count; ++bit)
      if ((word >> bit & 1) != 0) masked_[start + bit] = logits[start + bit];
  }
  return masked_;
}

// The `count` best in order, by a heap whose front is the worst kept. Nearly all logits of a large
// vocabulary are below that one, so whole blocks of them are passed over by one vectorised test.
void Sampler::select_best(std::span<const float> logits, size_t count, size_t position,
                          std::vector<Candidate>& best) {
  constexpr size_t kBlock = 64;
  count = std::min(count, logits.size());
  best.clear();
  for (size_t i = 0; i < count; ++i) {
    check_not_nan(logits[i], i, position);
    best.push_back({logits[i], static_cast<Token>(i), 0});
  }
  std::make_heap(best.begin(), best.end(), better);
  for (size_t start = count; start < logits.size(); start += kBlock) {
    const std::span<const float> block =
        logits.subspan(start, std::min(kBlock, logits.size() - start));
    const float worst = best.front().logit;
    int above = 0;
    for (const float logit : block) above |= exceeds(logit, worst);
    if (above == 0) continue;
    for (size_t i = 0; i < block.size(); ++i) {
      if (!exceeds(block[i], best.front().logit)) continue;
      check_not_nan(block[i], start + i, position);
      std::pop_heap(best.begin(), best.end(), better);
      best.back() = {block[i], static_cast<Token>(start + i), 0};
      std::push_heap(best.begin(), best.end(), better);
    }
  }
  std::sort_heap(best.begin(), best.end(), better);
}

void Sampler::change(std::span<float> logits, Token token, float logit) {
  float& current = logits[static_cast<size_t>(token)];
  changed_.emplace_back(token, current);
  current = logit;
}

void Sampler::undo_changes(std::span<float> logits) {
  for (size_t i = changed_.size(); i-- > 0;)  // a token may have been changed twice
    logits[static_cast<size_t>(changed_[i].first)] = changed_[i].second;
  changed_.clear();
}

void Sampler::apply_bias(std::span<float> logits) {
  for (const auto& [token, bias] : options_.logit_bias) {
    if (static_cast<size_t>(token) >= logits.size())
      fail(ErrorKind::kInvalidInput, "logit_bias names token {}, but the vocabulary has {} tokens",
           token, logits.size());
  }
  for (const auto& [token, bias] : options_.logit_bias)
    change(logits, token, logits[static_cast<size_t>(token)] + bias);
}

void Sampler::apply_penalties(std::span<float> logits, std::span<const Token> history) {
  const SamplingOptions& o = options_;
  if (o.repetition_penalty == 1 && o.presence_penalty == 0 && o.frequency_penalty == 0) return;
  const auto last = penalised(o, history);
  recent_.assign(last.begin(), last.end());
  std::sort(recent_.begin(), recent_.end());
  for (size_t i = 0; i < recent_.size();) {
    const Token token = recent_[i];
    WEFT_ASSERT(token >= 0 && static_cast<size_t>(token) < logits.size());
    size_t count = 0;
    for (; i < recent_.size() && recent_[i] == token; ++i) ++count;
    float logit = logits[static_cast<size_t>(token)];
    // Divided where that lowers it; a negative logit is lowered by the product instead.
    logit = logit > 0 ? logit / o.repetition_penalty : logit * o.repetition_penalty;
    logit -= o.presence_penalty + static_cast<float>(count) * o.frequency_penalty;
    change(logits, token, logit);
  }
}

Token Sampler::choose(std::span<const float> logits, size_t position) {
  const size_t top_k =
      options_.temperature == 0
          ? 1
          : (options_.top_k <= 0 ? logits.size() : static_cast<size_t>(options_.top_k));
  if (top_k < logits.size()) {
    select_best(logits, top_k, position, candidates_);
    check_best(candidates_.front().logit, position);
    while (candidates_.back().logit == -kInfinity) candidates_.pop_back();
  } else {
    take_all(logits, position);
  }
  if (candidates_.size() == 1) return candidates_.front().token;
  keep_typical();
  keep_top_p();
  keep_min_p();
  return draw(position);
}

void Sampler::take_all(std::span<const float> logits, size_t position) {
  candidates_.clear();
  float max = -kInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    check_not_nan(logits[i], i, position);
    max = std::max(max, logits[i]);
    if (logits[i] != -kInfinity) candidates_.push_back({logits[i], static_cast<Token>(i), 0});
  }
  check_best(max, position);
}

// Sets the candidates' weights; returns their sum.
double Sampler::weigh(float temperature) {
  float max = -kInfinity;
  for (const Candidate& c : candidates_) max = std::max(max, c.logit);
  double sum = 0;
  for (Candidate& c : candidates_) {
    c.weight = std::exp((c.logit - max) / temperature);
    sum += c.weight;
  }
  return sum;
}

// Keeps the shortest row of candidates, in the order of `before`, whose weights reach `mass`. A few
// tokens hold most of the mass as a rule, so the row is sorted in steps rather than at once.
template <typename Before>
void Sampler::keep_mass(double mass, Before before) {
  double sum = 0;
  size_t sorted = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (i == sorted) {
      sorted = std::min(candidates_.size(), std::max<size_t>(64, 4 * sorted));
      const auto from = candidates_.begin() + static_cast<ptrdiff_t>(i);
      const auto to = candidates_.begin() + static_cast<ptrdiff_t>(sorted);
      std::nth_element(from, to, candidates_.end(), before);
      std::sort(from, to, before);
    }
    sum += candidates_[i].weight;
    if (sum >= mass) {
      candidates_.erase(candidates_.begin() + static_cast<ptrdiff_t>(i) + 1, candidates_.end());
      return;
    }
  }
}

// Locally typical sampling (arXiv 2202.00666): tokens whose surprise -log p is nearest to its mean,
// the entropy. That is the distance of the logit from the mean logit.
void Sampler::keep_typical() {
  if (options_.typical_p >= 1) return;
  const double total = weigh(1.0f);
  double mean = 0;
  for (const Candidate& c : candidates_) mean += c.weight / total * c.logit;
  keep_mass(options_.typical_p * total, [mean](const Candidate& a, const Candidate& b) {
    const double da = std::abs(a.logit - mean), db = std::abs(b.logit - mean);
    return da < db || (da == db && better(a, b));
  });
}

// Nucleus sampling (arXiv 1904.09751).
void Sampler::keep_top_p() {
  if (options_.top_p >= 1) return;
  const double total = weigh(1.0f);
  keep_mass(options_.top_p * total, better);
}

// Tokens at least min_p times as likely as the likeliest (arXiv 2407.01082).
void Sampler::keep_min_p() {
  if (options_.min_p <= 0) return;
  float max = -kInfinity;
  for (const Candidate& c : candidates_) max = std::max(max, c.logit);
  const float least = max + std::log(options_.min_p);
  std::erase_if(candidates_, [least](const Candidate& c) { return c.logit < least; });
}

Token Sampler::draw(size_t position) {
  const double total = weigh(options_.temperature);
  const double target = total * uniform(options_.seed, request_, static_cast<uint32_t>(position));
  double sum = 0;
  const Candidate* last = nullptr;
  for (const Candidate& c : candidates_) {
    if (c.weight == 0) continue;
    sum += c.weight;
    last = &c;
    if (sum > target) break;
  }
  return last->token;  // the last one also if rounding put the target on the total
}

}  // namespace weft::text
