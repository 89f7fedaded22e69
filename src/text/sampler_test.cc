#include "text/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "base/error.h"

namespace weft::text {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SamplingOptions plain() {
  return {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .typical_p = 1};
}

std::vector<float> random_logits(size_t vocab_size, uint32_t seed, float scale = 2) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The same chain in float64 with full sorts: token -> probability.
class Reference {
 public:
  Reference(const SamplingOptions& o, const std::vector<float>& logits,
            const std::vector<Token>& history) {
    std::vector<double> l(logits.begin(), logits.end());
    for (const auto& [token, bias] : o.logit_bias) l[static_cast<size_t>(token)] += bias;
    const size_t reach = o.penalty_last_n < 0
                             ? history.size()
                             : std::min(history.size(), static_cast<size_t>(o.penalty_last_n));
    std::map<Token, int> counts;
    for (size_t i = history.size() - reach; i < history.size(); ++i) ++counts[history[i]];
    for (const auto& [token, count] : counts) {
      double& x = l[static_cast<size_t>(token)];
      x = x > 0 ? x / o.repetition_penalty : x * o.repetition_penalty;
      x -= o.presence_penalty + count * static_cast<double>(o.frequency_penalty);
    }
    for (size_t i = 0; i < l.size(); ++i)
      if (std::isfinite(l[i])) kept_.push_back({l[i], static_cast<Token>(i), 0});
    std::stable_sort(kept_.begin(), kept_.end(), likelier);
    if (o.top_k > 0) kept_.resize(std::min(kept_.size(), static_cast<size_t>(o.top_k)));
    typical(o.typical_p);
    normalise(1);
    if (o.top_p < 1) cut(o.top_p);
    normalise(1);
    const double best = kept_.front().p;
    std::erase_if(kept_, [&](const Entry& e) { return e.p < o.min_p * best; });
    normalise(o.temperature);
  }

  std::map<Token, double> probabilities() const {
    std::map<Token, double> out;
    for (const Entry& e : kept_) out[e.token] = e.p;
    return out;
  }

 private:
  struct Entry {
    double logit;
    Token token;
    double p;
  };
  static bool likelier(const Entry& a, const Entry& b) { return a.logit > b.logit; }

  void normalise(double temperature) {
    double max = -HUGE_VAL, sum = 0;
    for (const Entry& e : kept_) max = std::max(max, e.logit);
    for (Entry& e : kept_) sum += e.p = std::exp((e.logit - max) / temperature);
    for (Entry& e : kept_) e.p /= sum;
  }

  void cut(double mass) {
    double sum = 0;
    size_t count = 0;
    while (count < kept_.size() && sum < mass) sum += kept_[count++].p;
    kept_.resize(count);
  }

  void typical(double mass) {
    if (mass >= 1) return;
    normalise(1);
    double entropy = 0;
    for (const Entry& e : kept_) entropy -= e.p * std::log(e.p);
    const auto shift = [&](const Entry& e) { return std::abs(-std::log(e.p) - entropy); };
    std::stable_sort(kept_.begin(), kept_.end(),
                     [&](const Entry& a, const Entry& b) { return shift(a) < shift(b); });
    cut(mass);
    std::stable_sort(kept_.begin(), kept_.end(), likelier);
  }

  std::vector<Entry> kept_;
};

Token sample(const SamplingOptions& options, std::vector<float> logits,
             const std::vector<Token>& history = {}, uint64_t request = 0) {
  return Sampler(options, request).sample(logits, history).token;
}

// The 99.9 % quantile of chi-square (Wilson and Hilferty's approximation).
double chi_square_limit(double freedom) {
  const double v = 2 / (9 * freedom);
  return freedom * std::pow(1 - v + 3.09 * std::sqrt(v), 3);
}

// Draws with many request numbers; every token drawn must be in the reference's support, and the
// counts must fit its probabilities.
void expect_distribution(const std::string& name, const SamplingOptions& options,
                         const std::vector<float>& logits, const std::vector<Token>& history) {
  constexpr int kDraws = 5000;
  const auto expected = Reference(options, logits, history).probabilities();
  std::map<Token, int> drawn;
  for (uint64_t request = 0; request < kDraws; ++request)
    ++drawn[sample(options, logits, history, request)];
  for (const auto& [token, count] : drawn)
    EXPECT_TRUE(expected.contains(token)) << name << ": token " << token << " was filtered";
  double chi_square = 0, rest_expected = 0, rest_drawn = 0;
  int bins = 0;
  const auto add_bin = [&](double count, double want) {
    chi_square += (count - want) * (count - want) / want;
    ++bins;
  };
  for (const auto& [token, p] : expected) {
    if (p * kDraws >= 5) {
      add_bin(drawn[token], p * kDraws);
    } else {  // too rare for the statistic alone
      rest_expected += p * kDraws;
      rest_drawn += drawn[token];
    }
  }
  if (rest_expected >= 5) add_bin(rest_drawn, rest_expected);
  if (bins < 2) return;
  EXPECT_LT(chi_square, chi_square_limit(bins - 1)) << name;
}

TEST(sampler, draws_follow_the_reference_distribution) {
  const std::vector<float> logits = random_logits(24, 1);
  const std::vector<Token> history = {1, 5, 5, 9, 9, 9, 23, 0, 5};
  struct Case {
    std::string name;
    void (*set)(SamplingOptions&);
  };
  const Case cases[] = {
      {"plain", [](SamplingOptions&) {}},
      {"hot", [](SamplingOptions& o) { o.temperature = 2; }},
      {"cold", [](SamplingOptions& o) { o.temperature = 0.3f; }},
      {"top_k", [](SamplingOptions& o) { o.top_k = 5; }},
      {"top_p", [](SamplingOptions& o) { o.top_p = 0.7f; }},
      {"min_p", [](SamplingOptions& o) { o.min_p = 0.1f; }},
      {"typical_p", [](SamplingOptions& o) { o.typical_p = 0.5f; }},
      {"typical_p drops the likeliest", [](SamplingOptions& o) { o.typical_p = 0.2f; }},
      {"repetition", [](SamplingOptions& o) { o.repetition_penalty = 1.7f; }},
      {"presence", [](SamplingOptions& o) { o.presence_penalty = 1.5f; }},
      {"frequency", [](SamplingOptions& o) { o.frequency_penalty = 0.8f; }},
      {"negative frequency", [](SamplingOptions& o) { o.frequency_penalty = -0.8f; }},
      {"penalty window", [](SamplingOptions& o) { o.frequency_penalty = 2, o.penalty_last_n = 4; }},
      {"all of the history",
       [](SamplingOptions& o) { o.frequency_penalty = 1, o.penalty_last_n = -1; }},
      {"bias",
       [](SamplingOptions& o) {
         o.logit_bias = {{3, 4.0f}, {7, -kInf}, {3, -1.0f}};
       }},
      {"bias, then penalties",
       [](SamplingOptions& o) {
         o.logit_bias = {{5, 6.0f}}, o.repetition_penalty = 2;
       }},
      {"filters come before temperature",
       [](SamplingOptions& o) { o.top_p = 0.6f, o.min_p = 0.2f, o.temperature = 3; }},
      {"all", [](SamplingOptions& o) {
         o = {.temperature = 1.3f,
              .top_k = 15,
              .top_p = 0.9f,
              .min_p = 0.02f,
              .typical_p = 0.95f,
              .repetition_penalty = 1.1f,
              .presence_penalty = 0.2f,
              .frequency_penalty = 0.1f,
              .penalty_last_n = 5,
              .logit_bias = {{2, 1.5f}},
              .seed = 77};
       }}};
  for (const Case& c : cases) {
    SamplingOptions options = plain();
    options.seed = 20;
    options.penalty_last_n = 64;
    c.set(options);
    expect_distribution(c.name, options, logits, history);
  }
}

TEST(sampler, nucleus_of_a_large_flat_vocabulary) {  // sorted in several steps
  const std::vector<float> logits = random_logits(3000, 2, 0.3f);
  SamplingOptions options = plain();
  for (const float top_p : {0.01f, 0.5f, 0.99f}) {
    options.top_p = top_p;
    const auto expected = Reference(options, logits, {}).probabilities();
    std::map<Token, int> drawn;
    for (uint64_t request = 0; request < 500; ++request)
      ++drawn[sample(options, logits, {}, request)];
    for (const auto& [token, count] : drawn) EXPECT_TRUE(expected.contains(token)) << top_p;
  }
}

TEST(sampler, greedy_takes_the_best_and_the_lowest_id_of_a_tie) {
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_EQ(sample(options, {1, 3, 2}), 1);
  EXPECT_EQ(sample(options, {1, 3, 2, 3, 3}), 1);
  EXPECT_EQ(sample(options, {-0.0f, 0.0f}), 0);
  EXPECT_EQ(sample(options, {-5}), 0);
  options.typical_p = 0.1f;  // would drop the likeliest
  EXPECT_EQ(sample(options, {5, 0, 0, 0, 0}), 0);
  for (const size_t best : {0, 1, 63, 64, 65, 127, 128, 999}) {
    std::vector<float> logits(1000, -1);
    logits[best] = 4;
    logits[999] = 4;
    EXPECT_EQ(sample(options, logits), static_cast<Token>(best));
  }
}

TEST(sampler, top_logprobs_equal_a_full_sort) {
  for (const size_t vocab_size : {1, 2, 40, 64, 105, 50000}) {
    std::vector<float> logits = random_logits(vocab_size, static_cast<uint32_t>(vocab_size));
    for (float& logit : logits) logit = std::round(logit * 8) / 8;  // many ties
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    std::vector<Token> order(vocab_size);
    std::iota(order.begin(), order.end(), 0);
    const auto logit_of = [&](Token t) { return logits[static_cast<size_t>(t)]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](Token a, Token b) { return logit_of(a) > logit_of(b); });
    const std::vector<float> before = logits;
    SamplingOptions options;
    options.logit_bias = {{0, -kInf}};  // no part of the model's distribution
    if (vocab_size == 1) options.logit_bias.clear();
    const Sampled sampled = Sampler(options, 1).sample(logits, {}, true, 41);
    EXPECT_EQ(logits, before);
    ASSERT_EQ(sampled.top.size(), std::min<size_t>(41, vocab_size));
    // Sums of float exponentials: each is right to 2^-23, so their logarithm is too.
    for (size_t i = 0; i < sampled.top.size(); ++i) {
      EXPECT_EQ(sampled.top[i].token, order[i]) << i << " of " << vocab_size;
      EXPECT_NEAR(sampled.top[i].logprob, logit_of(order[i]) - std::log(sum), 3e-6);
    }
    EXPECT_NEAR(sampled.logprob, logit_of(sampled.token) - std::log(sum), 3e-6);
  }
}

TEST(sampler, a_biased_token_reports_the_models_logprob) {
  std::vector<float> logits = {0, 0, 0, 0};
  SamplingOptions options = plain();
  options.logit_bias = {{2, 50.0f}, {2, 10.0f}};
  const Sampled sampled = Sampler(options, 1).sample(logits, {}, true);
  EXPECT_EQ(sampled.token, 2);
  EXPECT_NEAR(sampled.logprob, std::log(0.25), 1e-6);
  EXPECT_TRUE(sampled.top.empty());
}

TEST(sampler, a_draw_depends_on_seed_request_and_position_alone) {
  const std::vector<float> logits = random_logits(500, 3);
  SamplingOptions options;
  options.seed = 9;
  const auto tokens = [&](uint64_t seed, uint64_t request) {
    options.seed = seed;
    Sampler sampler(options, request);
    std::vector<Token> history = {4}, drawn;
    for (int i = 0; i < 50; ++i) {
      std::vector<float> copy = logits;
      drawn.push_back(sampler.sample(copy, history).token);
      history.push_back(drawn.back());
    }
    return drawn;
  };
  const std::vector<Token> alone = tokens(9, 5);
  EXPECT_NE(tokens(9, 6), alone);
  EXPECT_NE(tokens(10, 5), alone);
  // Replayed by new samplers, last position first, with others' draws in between.
  options.seed = 9;
  for (size_t i = alone.size(); i-- > 0;) {
    std::vector<Token> history = {4};
    history.insert(history.end(), alone.begin(), alone.begin() + static_cast<ptrdiff_t>(i));
    sample(options, random_logits(500, 4), history, 6);
    EXPECT_EQ(sample(options, logits, history, 5), alone[i]) << "position " << history.size();
  }
}

TEST(sampler, the_tightest_filters_keep_the_likeliest_token) {
  const std::vector<float> logits = {1, 2, 2.5f, 2.4f, -kInf};
  for (uint64_t request = 0; request < 200; ++request) {
    SamplingOptions options = plain();
    options.top_p = 1e-6f;
    EXPECT_EQ(sample(options, logits, {}, request), 2);
    options = plain();
    options.min_p = 1;
    EXPECT_EQ(sample(options, logits, {}, request), 2);
    options = plain();
    options.top_k = 1;
    EXPECT_EQ(sample(options, logits, {}, request), 2);
    options = plain();
    options.temperature = 1e-30f;
    EXPECT_EQ(sample(options, logits, {}, request), 2);
  }
}

TEST(sampler, min_p_1_keeps_all_of_a_tie) {
  SamplingOptions options = plain();
  options.min_p = 1;
  expect_distribution("tie", options, {3, 1, 3, 2, 3}, {});
}

TEST(sampler, top_k_beyond_the_vocabulary_is_off) {
  const std::vector<float> logits = random_logits(30, 5);
  SamplingOptions off = plain(), beyond = plain(), all = plain();
  beyond.top_k = 31;
  all.top_k = 30;
  for (uint64_t request = 0; request < 300; ++request) {
    const Token token = sample(off, logits, {}, request);
    EXPECT_EQ(sample(beyond, logits, {}, request), token);
    EXPECT_EQ(sample(all, logits, {}, request), token);
  }
}

TEST(sampler, a_bias_of_minus_infinity_bans_a_token) {
  for (const int top_k : {0, 3, 4}) {
    SamplingOptions options = plain();
    options.top_k = top_k;
    options.logit_bias = {{1, -kInf}, {3, -kInf}};
    expect_distribution("banned", options, {0, 9, 0.5f, 9}, {});
    options.temperature = 0;
    EXPECT_EQ(sample(options, {0, 9, 0.5f, 9}), 2);
  }
}

TEST(sampler, a_ban_holds_against_penalties) {
  SamplingOptions options = plain();
  options.logit_bias = {{1, -kInf}};
  options.frequency_penalty = -2;
  for (uint64_t request = 0; request < 100; ++request)
    EXPECT_EQ(sample(options, {0, 0}, {1, 1, 1}, request), 0);
}

void expect_refused(const SamplingOptions& options, std::vector<float> logits,
                    const std::string& part, bool want_logprob = false) {
  try {
    Sampler(options, 0).sample(logits, std::vector<Token>{0}, want_logprob);
    ADD_FAILURE() << "accepted, should say: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(sampler, logits_that_are_no_numbers_are_refused) {
  for (const size_t where : {0, 1, 39, 40, 41, 104, 299}) {
    std::vector<float> nan(300, 1), infinite(300, 1);
    nan[where] = kNan;
    infinite[where] = kInf;
    for (const float temperature : {0.0f, 1.0f}) {
      for (const int top_k : {0, 40}) {
        SamplingOptions options = plain();
        options.temperature = temperature;
        options.top_k = top_k;
        for (const bool want_logprob : {false, true}) {
          expect_refused(options, nan,
                         "NaN as logit of token " + std::to_string(where) + " at position 1",
                         want_logprob);
          expect_refused(options, infinite, "infinite logit at position 1", want_logprob);
        }
      }
    }
  }
}

TEST(sampler, banning_every_token_is_refused) {
  SamplingOptions options = plain();
  options.logit_bias = {{0, -kInf}, {1, -kInf}};
  for (const float temperature : {0.0f, 1.0f}) {
    options.temperature = temperature;
    expect_refused(options, {1, 2}, "every logit is -inf");
  }
}

TEST(sampler, goes_on_after_a_refusal) {
  SamplingOptions options = plain();
  options.temperature = 0;
  options.logit_bias = {{0, 5.0f}};
  Sampler sampler(options, 0);
  std::vector<float> bad = {kNan, 1}, good = {1, 2};
  EXPECT_THROW(sampler.sample(bad, {}), Error);
  EXPECT_EQ(sampler.sample(good, {}).token, 0);
  EXPECT_EQ(good, (std::vector<float>{1, 2}));
}

TEST(sampler, a_bias_outside_the_vocabulary_is_refused) {
  SamplingOptions options = plain();
  options.logit_bias = {{2, 1.0f}};
  expect_refused(options, {0, 0}, "logit_bias names token 2, but the vocabulary has 2 tokens");
}

TEST(sampling_options, messages_name_option_value_and_range) {
  struct Case {
    void (*set)(SamplingOptions&);
    const char* message;
  };
  const Case cases[] = {
      {[](SamplingOptions& o) { o.temperature = -1; },
       "temperature is -1, but must be a number of"},
      {[](SamplingOptions& o) { o.temperature = kInf; }, "temperature is inf"},
      {[](SamplingOptions& o) { o.temperature = kNan; }, "temperature is nan"},
      {[](SamplingOptions& o) { o.top_p = 0; }, "top_p is 0, but must be above 0 and at most 1"},
      {[](SamplingOptions& o) { o.top_p = 1.5f; }, "top_p is 1.5"},
      {[](SamplingOptions& o) { o.min_p = -0.5f; }, "min_p is -0.5, but must be between 0 (off)"},
      {[](SamplingOptions& o) { o.min_p = 2; }, "min_p is 2"},
      {[](SamplingOptions& o) { o.typical_p = 0; }, "typical_p is 0, but must be above 0"},
      {[](SamplingOptions& o) { o.repetition_penalty = 0; },
       "repetition_penalty is 0, but must be a number above 0"},
      {[](SamplingOptions& o) { o.repetition_penalty = kNan; }, "repetition_penalty is nan"},
      {[](SamplingOptions& o) { o.presence_penalty = 2.5f; },
       "presence_penalty is 2.5, but must be between -2 and 2"},
      {[](SamplingOptions& o) { o.frequency_penalty = -3; },
       "frequency_penalty is -3, but must be between -2 and 2"},
      {[](SamplingOptions& o) { o.penalty_last_n = -2; }, "penalty_last_n is -2, but must be"},
      {[](SamplingOptions& o) {
         o.logit_bias = {{-1, 0.0f}};
       },
       "logit_bias names token -1"},
      {[](SamplingOptions& o) {
         o.logit_bias = {{7, kNan}};
       },
       "logit_bias of token 7 is nan"},
      {[](SamplingOptions& o) {
         o.logit_bias = {{7, kInf}};
       },
       "logit_bias of token 7 is inf"},
  };
  validate({});
  for (const Case& c : cases) {
    SamplingOptions options;
    c.set(options);
    expect_refused(options, {0, 0}, c.message);
  }
}

TEST(sampler, draws_from_the_allowed_tokens_as_if_there_were_no_others) {
  for (const size_t vocab_size : {63, 64, 200}) {
    const std::vector<float> logits = random_logits(vocab_size, 3);
    TokenMask mask(vocab_size - 1);  // the last token is outside of it
    std::vector<float> without = logits;
    for (size_t i = 0; i < vocab_size; ++i) {
      if (i % 7 == 2 && i + 1 < vocab_size)
        mask.allow(static_cast<Token>(i));
      else
        without[i] = -kInf;
    }
    Sampler masked({.temperature = 1.3f, .repetition_penalty = 1.2f, .seed = 9}, 0);
    Sampler plain = masked;
    std::vector<Token> history = {2, 9};
    for (int n = 0; n < 50; ++n) {
      std::vector<float> a = logits, b = without;
      const Sampled drawn = masked.sample(a, history, true, 2, &mask);
      EXPECT_EQ(drawn.token, plain.sample(b, history).token);
      EXPECT_EQ(a, logits) << "restored";
      const auto all = Sampler({.temperature = 0}, 0).sample(a, history, true, vocab_size).top;
      const auto own = std::find_if(all.begin(), all.end(),
                                    [&](const TokenLogprob& t) { return t.token == drawn.token; });
      EXPECT_EQ(drawn.logprob, own->logprob) << "the model's own";
      history.push_back(drawn.token);
    }
    TokenMask none(vocab_size);
    std::vector<float> a = logits;
    EXPECT_THROW(masked.sample(a, history, false, 0, &none), Error);
  }
}

}  // namespace
}  // namespace weft::text
