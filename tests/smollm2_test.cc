// SmolLM2's greedy continuations beside those of transformers (tests/data/smollm2/make.py), both on
// the weights of the default model's file.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer.h"
#include "models/language_model.h"
#include "text/kv_cache.h"
#include "text/perplexity.h"
#include "text/sampler.h"

namespace weft::tests {
namespace {

using text::Token;

// The weights are the same; we round every product's input to int8 (a scale for each 32 values:
// about 0.7 % noise on each input) and keys and values to f16, the reference rounds nothing. Where
// the reference's two best logits are nearer than kNearTie, either may win, which the test prints.
// The gap between the two may differ from the reference's by kGapNoise (root mean square).
constexpr float kNearTie = 0.5f;
constexpr double kGapNoise = 0.25;
constexpr size_t kLeastEqualTokens = 32;  // per prompt, near-ties not counted

struct Continuation {
  std::string prompt;
  std::vector<Token> prompt_ids, tokens, runners_up;
  std::vector<float> gaps;  // logit of the token less that of the runner-up
};

struct Fixture {
  uintmax_t model_bytes = 0;
  std::vector<Continuation> continuations;
};

Fixture read_fixture() {
  std::ifstream file(WEFT_SOURCE_DIR "/tests/data/smollm2/greedy.json");
  const auto json = nlohmann::json::parse(file);
  Fixture fixture{json["model_bytes"].get<uintmax_t>(), {}};
  for (const auto& c : json["continuations"])
    fixture.continuations.push_back(
        {c["prompt"].get<std::string>(), c["prompt_ids"].get<std::vector<Token>>(),
         c["tokens"].get<std::vector<Token>>(), c["runners_up"].get<std::vector<Token>>(),
         c["gaps"].get<std::vector<float>>()});
  return fixture;
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    const std::filesystem::path model = WEFT_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(model))
      GTEST_SKIP() << "needs the default model, which ./run and ./test fetch into models/";
    ASSERT_EQ(std::filesystem::file_size(model), fixture_.model_bytes)
        << "greedy.json was made from another file: run make.py again";
    checkpoint_ = formats::open_checkpoint(model);
  }

  Fixture fixture_ = read_fixture();
  std::shared_ptr<const formats::Checkpoint> checkpoint_;
};

TEST_F(SmolLm2, encodes_the_prompts_as_the_reference) {
  const auto tokenizer = checkpoint_->load_tokenizer();
  for (const Continuation& c : fixture_.continuations)
    EXPECT_EQ(tokenizer->encode(c.prompt), c.prompt_ids) << c.prompt;
}

// All prompts in one ragged batch: a prefill, then one token each a step. Every step continues the
// reference's tokens, so that what follows a near-tie is compared as well.
TEST_F(SmolLm2, continues_as_the_reference) {
  ThreadPool pool(available_cores());
  const auto model = models::load_language_model(checkpoint_, pool.cores());
  const auto workspace = model->make_workspace();
  const size_t vocab_size = model->config().vocab_size;
  const auto& continuations = fixture_.continuations;
  text::KvCache cache({.num_layers = model->config().num_layers,
                       .shape = model->kv_shape(),
                       .format = kernels::KvFormat::kF16,
                       .capacity_tokens = 4096});
  std::vector<models::SequenceInput> batch;
  for (const Continuation& c : continuations) {
    batch.push_back({.sequence = cache.create(), .tokens = c.prompt_ids});
    ASSERT_TRUE(cache.reserve(batch.back().sequence, c.prompt_ids.size() + c.tokens.size()));
  }
  text::Sampler greedy({.temperature = 0}, 0);
  std::vector<float> logits(continuations.size() * vocab_size);
  std::vector<size_t> equal(continuations.size());
  double sum_of_squares = 0;
  size_t count = 0;
  for (size_t step = 0; step < continuations.front().tokens.size(); ++step) {
    model->forward(batch, cache, logits.data(), *workspace, pool.cores());
    for (size_t i = 0; i < continuations.size(); ++i) {
      const Continuation& c = continuations[i];
      const Token token = c.tokens[step], runner_up = c.runners_up[step];
      const float gap = c.gaps[step];
      const std::span<float> row(logits.data() + i * vocab_size, vocab_size);
      const float our_gap = row[static_cast<size_t>(token)] - row[static_cast<size_t>(runner_up)];
      const std::string where = fmt::format("prompt {}, token {} ({})", i, step, token);
      sum_of_squares += (our_gap - gap) * (our_gap - gap);
      ++count;
      const Token ours = greedy.sample(row, {}).token;
      if (gap >= kNearTie) {
        EXPECT_EQ(ours, token) << where;
        ++equal[i];
      } else if (ours != token) {
        EXPECT_EQ(ours, runner_up) << where;
        fmt::print("near-tie: {}: ours is {}, logits {:.3f} apart in the reference\n", where, ours,
                   gap);
      } else {
        ++equal[i];
      }
      batch[i].first_position += batch[i].tokens.size();
      batch[i].tokens = std::span(c.tokens).subspan(step, 1);
    }
  }
  const double noise = std::sqrt(sum_of_squares / static_cast<double>(count));
  fmt::print("noise of the gaps: {:.3f}\n", noise);
  EXPECT_LE(noise, kGapNoise);
  for (size_t i = 0; i < equal.size(); ++i)
    EXPECT_GE(equal[i], kLeastEqualTokens) << "prompt " << i;
}

// llama.cpp rounds activations as we do, but sums in another order and keeps keys and values apart.
TEST_F(SmolLm2, perplexity_is_that_of_llama_cpp) {
  std::ifstream file(WEFT_SOURCE_DIR "/tests/data/smollm2/perplexity.json");
  const auto expected = nlohmann::json::parse(file);
  const auto tokenizer = checkpoint_->load_tokenizer();
  const std::string text = read_file(WEFT_SOURCE_DIR "/tests/data/text/coriolanus.txt");
  ThreadPool pool(available_cores());
  const auto model = models::load_language_model(checkpoint_, pool.cores());
  text::PerplexityOptions options{.window_tokens = expected["window_tokens"],
                                  .max_windows = expected["windows"]};
  if (tokenizer->special().add_bos) options.first = tokenizer->special().bos;
  const text::Perplexity measured = text::measure_perplexity(
      *model, tokenizer->encode(text, {.parse_special = false}), options, pool.cores());
  const double theirs = expected["perplexity"];
  EXPECT_NEAR(measured.perplexity, theirs, 0.005 * theirs);
}

}  // namespace
}  // namespace weft::tests
