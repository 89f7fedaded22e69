#include "text/score.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "text/decoder.h"

namespace weft::text {
namespace {

std::shared_ptr<const models::LanguageModel> load() {
  return models::load_language_model(
      formats::open_checkpoint(WEFT_SOURCE_DIR "/tests/data/parity/qwen3"), CoreSet());
}

void on_this_thread(const std::function<void(const CoreSet&)>& body) { body(CoreSet()); }

std::vector<Token> some_tokens(size_t count) {
  std::vector<Token> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<Token>((i * i * 5 + i * 7) % 90);
  return tokens;
}

// The log-probabilities are those that the tokens had when they were sampled, bit for bit.
TEST(score, of_an_answer_is_what_the_sampler_said) {
  const auto model = load();
  const auto decoder = make_plain_decoder(model, {.capacity_tokens = 512}, CoreSet());
  std::vector<Token> text = some_tokens(70);
  const size_t num_prompt = text.size();
  decoder->start(1, {.prompt = text,
                     .sampling = {.temperature = 1, .seed = 3},
                     .max_tokens = 30,
                     .want_logprobs = true,
                     .num_top_logprobs = 4});
  std::vector<Sampled> answer;
  while (answer.size() < 30)
    for (const DecodedToken& token : decoder->step({})) {
      answer.push_back(token.sampled);
      text.push_back(token.sampled.token);
    }
  ThreadPool pool(2);
  const auto scores = score(*model, text, 4, [&](const auto& body) { body(pool.cores()); });
  ASSERT_EQ(scores.size(), text.size() - 1);
  for (size_t i = 0; i < answer.size(); ++i) {
    const Sampled& scored = scores[num_prompt - 1 + i];
    EXPECT_EQ(scored.token, answer[i].token);
    EXPECT_EQ(scored.logprob, answer[i].logprob) << i;
    ASSERT_EQ(scored.top.size(), 4u);
    for (size_t k = 0; k < 4; ++k) {
      EXPECT_EQ(scored.top[k].token, answer[i].top[k].token);
      EXPECT_EQ(scored.top[k].logprob, answer[i].top[k].logprob);
    }
  }
}

TEST(score, pieces_are_read_in_turns) {
  size_t turns = 0;
  const auto counted = [&](const std::function<void(const CoreSet&)>& body) {
    ++turns;
    body(CoreSet());
  };
  const auto model = load();
  EXPECT_EQ(score(*model, some_tokens(kScorePiece + 2), 0, counted).size(), kScorePiece + 1);
  EXPECT_EQ(turns, 2u);
  EXPECT_TRUE(score(*model, some_tokens(1), 5, on_this_thread).empty());
}

TEST(score, refuses_nothing_too_much_and_strange_tokens) {
  const auto model = load();
  const std::vector<Token> long_text(model->config().context_length + 1, 1);
  const std::vector<Token> strange = {1, -5};
  for (const auto& tokens : {std::vector<Token>{}, long_text, strange})
    EXPECT_THROW(score(*model, tokens, 1, on_this_thread), Error);
}

}  // namespace
}  // namespace weft::text
