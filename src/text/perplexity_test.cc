#include "text/perplexity.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"

namespace weft::text {
namespace {

using models::Token;

// Every logit depends on the last token and on where it stands in the window, and the model insists
// that tokens come in order. `first_seen`: what stood at position 0 of each window.
class TableModel final : public models::LanguageModel {
 public:
  explicit TableModel(size_t vocab_size) {
    config_.num_layers = 1;
    config_.vocab_size = vocab_size;
    config_.context_length = 4096;
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, 2);
    table_.resize(vocab_size * vocab_size);
    for (float& logit : table_) logit = normal(random);
  }

  float logit(Token last, size_t position, size_t token) const {
    const float base = table_[static_cast<size_t>(last) * config_.vocab_size + token];
    return base + 0.01f * static_cast<float>((position * (token + 1)) % 17);
  }

  const models::LanguageModelConfig& config() const override { return config_; }
  kernels::KvShape kv_shape() const override { return {.num_kv_heads = 1, .head_dim = 16}; }
  size_t weight_bytes() const override { return 0; }
  std::unique_ptr<models::Workspace> make_workspace() const override {
    return std::make_unique<models::Workspace>();
  }
  void forward(std::span<const models::SequenceInput> batch, kernels::KvStore&, float* logits,
               models::Workspace&, const CoreSet&) const override {
    for (const models::SequenceInput& input : batch) {
      ASSERT_EQ(input.first_position, input.first_position == 0 ? 0 : next_position_);
      next_position_ = input.first_position + input.tokens.size();
      for (size_t i = 0; i < input.tokens.size(); ++i) {
        const size_t position = input.first_position + i;
        if (position == 0) first_seen.push_back(input.tokens[0]);
        if (input.logits == models::LogitsWanted::kNone) continue;
        for (size_t t = 0; t < config_.vocab_size; ++t)
          *logits++ = logit(input.tokens[i], position, t);
      }
    }
    if (stop_flag != nullptr) *stop_flag = true;
  }

  mutable std::vector<Token> first_seen;
  std::atomic<bool>* stop_flag = nullptr;

 private:
  models::LanguageModelConfig config_;
  std::vector<float> table_;
  mutable size_t next_position_ = 0;
};

std::vector<Token> random_tokens(size_t count, size_t vocab_size) {
  std::mt19937 random(3);
  std::vector<Token> tokens(count);
  for (Token& token : tokens) token = static_cast<Token>(random() % vocab_size);
  return tokens;
}

struct Expected {
  double perplexity, standard_error;
  size_t count;
};

// The definition, written down again in float64.
Expected reference(const TableModel& model, const std::vector<Token>& tokens, size_t window,
                   size_t num_windows) {
  std::vector<double> surprises;
  for (size_t w = 0; w < num_windows; ++w) {
    for (size_t position = window / 2; position + 1 < window; ++position) {
      const Token last = tokens[w * window + position];
      double sum = 0;
      for (size_t t = 0; t < model.config().vocab_size; ++t)
        sum += std::exp(static_cast<double>(model.logit(last, position, t)));
      const auto next = static_cast<size_t>(tokens[w * window + position + 1]);
      surprises.push_back(std::log(sum) - model.logit(last, position, next));
    }
  }
  const auto n = static_cast<double>(surprises.size());
  double mean = 0, variance = 0;
  for (const double s : surprises) mean += s / n;
  for (const double s : surprises) variance += (s - mean) * (s - mean) / (n - 1);
  const double perplexity = std::exp(mean);
  return {perplexity, perplexity * std::sqrt(variance / n), surprises.size()};
}

// Logits and their exponentials are floats: 24 bits, and errors of many tokens average out.
constexpr double kRelative = 1e-6;

TEST(perplexity, equals_its_definition) {
  for (const size_t window : {4, 5, 64, 1301}) {
    const TableModel model(50);
    const std::vector<Token> tokens = random_tokens(2 * window + window / 2, 50);
    const Perplexity got = measure_perplexity(model, tokens, {.window_tokens = window}, CoreSet());
    const Expected want = reference(model, tokens, window, 2);
    EXPECT_NEAR(got.perplexity, want.perplexity, want.perplexity * kRelative) << window;
    EXPECT_NEAR(got.standard_error, want.standard_error, want.standard_error * 1e-5) << window;
    EXPECT_EQ(got.num_windows, 2u);
    EXPECT_EQ(got.num_scored, want.count);
  }
}

TEST(perplexity, a_vocabulary_too_large_for_one_piece_changes_nothing) {
  const size_t vocab_size = 3000;
  TableModel model(vocab_size);  // 2^24 / 3000 logits: 5592 tokens, above 512
  const std::vector<Token> tokens = random_tokens(4000, vocab_size);
  ThreadPool pool(2);
  const Perplexity got = measure_perplexity(model, tokens, {.window_tokens = 2000}, pool.cores());
  const Expected want = reference(model, tokens, 2000, 2);
  EXPECT_NEAR(got.perplexity, want.perplexity, want.perplexity * kRelative);
}

TEST(perplexity, first_token_of_each_window_is_replaced) {
  const TableModel model(20);
  std::vector<Token> tokens = random_tokens(40, 20);
  const auto seen = [&](std::optional<Token> first) {
    TableModel fresh(20);
    measure_perplexity(fresh, tokens, {.window_tokens = 10, .first = first}, CoreSet());
    return fresh.first_seen;
  };
  EXPECT_EQ(seen(17), (std::vector<Token>{17, 17, 17, 17}));
  EXPECT_EQ(seen(std::nullopt),
            (std::vector<Token>{tokens[0], tokens[10], tokens[20], tokens[30]}));
}

TEST(perplexity, stops_after_max_windows) {
  const TableModel model(20);
  const std::vector<Token> tokens = random_tokens(100, 20);
  size_t last_done = 0, last_total = 0;
  const Perplexity got =
      measure_perplexity(model, tokens, {.window_tokens = 10, .max_windows = 3}, CoreSet(), {},
                         [&](size_t done, size_t total) { last_done = done, last_total = total; });
  EXPECT_EQ(got.num_windows, 3u);
  EXPECT_NEAR(got.perplexity, reference(model, tokens, 10, 3).perplexity, 1e-4);
  EXPECT_EQ(last_done, 30u);
  EXPECT_EQ(last_total, 30u);
}

TEST(perplexity, bad_input_is_refused) {
  const TableModel model(20);
  const auto refused = [&](std::vector<Token> tokens, size_t window, const std::string& part) {
    try {
      measure_perplexity(model, tokens, {.window_tokens = window}, CoreSet());
      ADD_FAILURE() << "accepted, should say: " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  refused(random_tokens(19, 20), 10, "the text has 19 tokens, but two windows of 10");
  refused({}, 10, "the text has 0 tokens");
  refused(random_tokens(20, 20), 3, "a window of 3 tokens: this model reads 4 to 4096");
  refused(random_tokens(20, 20), 4097, "a window of 4097 tokens");
  refused(random_tokens(20, 20), SIZE_MAX, "a window of");
  refused(std::vector<Token>(20, 20), 10, "token 20 is outside the model's vocabulary of 20");
}

TEST(perplexity, a_window_that_the_kv_budget_cannot_hold_is_refused) {
  const TableModel model(20);
  KvPolicyOptions kv{.mode = KvMode::kProgressive, .budget_bytes = 1 << 30, .max_length = 9};
  const auto policy =
      std::make_shared<KvPolicy>(kv, model.config().num_layers, model.kv_shape());
  try {
    measure_perplexity(model, random_tokens(40, 20), {.window_tokens = 10, .kv_policy = policy},
                       CoreSet());
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
    EXPECT_NE(std::string(e.what()).find("the KV budget holds 9"), std::string::npos) << e.what();
  }
}

TEST(perplexity, ends_when_asked_to_stop) {
  TableModel model(20);
  std::atomic<bool> flag{false};
  model.stop_flag = &flag;
  const std::vector<Token> tokens = random_tokens(100, 20);
  try {
    measure_perplexity(model, tokens, {.window_tokens = 10}, CoreSet(), StopToken(&flag));
    FAIL() << "went on";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kCancelled);
  }
  EXPECT_EQ(model.first_seen.size(), 1u);
}

}  // namespace
}  // namespace weft::text
