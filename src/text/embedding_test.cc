#include "text/embedding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "formats/checkpoint.h"

namespace weft::text {
namespace {

std::shared_ptr<const models::LanguageModel> load() {
  return models::load_language_model(
      formats::open_checkpoint(WEFT_SOURCE_DIR "/tests/data/parity/qwen3"), CoreSet());
}

void on_this_thread(const std::function<void(const CoreSet&)>& body) { body(CoreSet()); }

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

TEST(embedding, has_length_1_and_is_the_texts_own) {
  const auto model = load();
  const std::vector<Token> one = {1, 2, 3, 4}, other = {9, 8, 7};
  const auto a = embed(*model, one, on_this_thread);
  ASSERT_EQ(a.size(), model->config().hidden_size);
  EXPECT_NEAR(dot(a, a), 1, 1e-5);
  EXPECT_EQ(embed(*model, one, on_this_thread), a);
  EXPECT_LT(dot(a, embed(*model, other, on_this_thread)), 0.999);
}

// The hidden states are those that logits are made of: with the pieces in turns, on any cores.
TEST(embedding, does_not_depend_on_cores_or_turns) {
  const auto model = load();
  std::vector<Token> tokens(100);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<Token>(i * 7 % 90);
  ThreadPool pool(3);
  size_t turns = 0;
  const auto counted = [&](const std::function<void(const CoreSet&)>& body) {
    ++turns;
    body(pool.cores());
  };
  EXPECT_EQ(embed(*model, tokens, counted), embed(*model, tokens, on_this_thread));
  EXPECT_EQ(turns, 1u);
}

TEST(embedding, refuses_nothing_and_too_much) {
  const auto model = load();
  EXPECT_THROW(embed(*model, {}, on_this_thread), Error);
  const std::vector<Token> long_text(model->config().context_length + 1, 1);
  EXPECT_THROW(embed(*model, long_text, on_this_thread), Error);
}

}  // namespace
}  // namespace weft::text
