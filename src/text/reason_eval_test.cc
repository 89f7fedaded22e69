// The reasoners' tokenizer, and the evaluation on it.
#include "text/reason_eval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "formats/chat.h"
#include "formats/gguf.h"
#include "formats/gguf_tokenizer_writer.h"
#include "text/test_model.h"

namespace weft::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kTokenizer = WEFT_SOURCE_DIR "/share/models/reasoner-tokenizer";
constexpr size_t kVocabulary = 384;

// Against what the `tokenizers` library makes of the same file
// (share/models/reasoner-tokenizer/make.py).
void expect_reference_ids(const formats::Tokenizer& tokenizer) {
  const json expected = json::parse(read_file(WEFT_SOURCE_DIR "/tests/data/reasoner/tokens.json"));
  ASSERT_GT(expected["cases"].size(), 15u);
  for (const json& item : expected["cases"]) {
    const std::string text = item["text"];
    const std::vector<Token> ids = tokenizer.encode(text, {.add_special = false});
    EXPECT_EQ(ids, item["ids"].get<std::vector<Token>>()) << text;
    EXPECT_EQ(tokenizer.decode(ids), item["decoded"].get<std::string>());
    std::vector<Token> with_bos = ids;
    with_bos.insert(with_bos.begin(), *tokenizer.special().bos);
    EXPECT_EQ(tokenizer.encode(text), with_bos);
  }
}

TEST(reasoner_tokenizer, folder_and_gguf_give_the_reference_ids) {
  const auto tokenizer = formats::load_tokenizer(kTokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), kVocabulary);
  expect_reference_ids(*tokenizer);
  const fs::path path =
      fs::path(testing::TempDir()) / fmt::format("weft_reasoner_{}.gguf", getpid());
  {
    formats::GgufWriter writer(path);
    ASSERT_TRUE(formats::write_gguf_tokenizer(writer, kTokenizer, kVocabulary));
    writer.commit();
  }
  const formats::GgufFile file = formats::GgufFile::open(path);
  fs::remove(path);
  EXPECT_EQ(file.get_string("tokenizer.ggml.pre"), "llama-bpe");
  expect_reference_ids(*formats::load_gguf_tokenizer(file));
}

TEST(reasoner_tokenizer, pieces_of_the_task_are_its_tokens) {
  const auto tokenizer = formats::load_tokenizer(kTokenizer);
  std::vector<Token> ids;
  for (const std::string& piece : tasks::reason_pieces()) {
    const auto one = tokenizer->encode(piece, {.add_special = false});
    ASSERT_EQ(one.size(), 1u) << piece;
    ids.push_back(one[0]);
  }
  tasks::ReasonOptions options = tasks::options_of(tasks::ReasonLevel::kMixed);
  for (uint64_t index = 0; index < 200; ++index) {
    options.modulus = index % 2 == 0 ? 100 : 1000;
    const auto problem = tasks::make_reason(options, tasks::ReasonSplit::kTrain, 1, index);
    const tasks::ReasonPieces pieces = tasks::write_reason(problem, 1, index);
    for (const auto& part : {pieces.prompt, pieces.completion}) {
      std::vector<Token> expected;
      for (const uint16_t piece : part) expected.push_back(ids[piece]);
      EXPECT_EQ(tokenizer->encode(tasks::join_pieces(part), {.add_special = false}), expected);
    }
  }
}

TEST(reasoner_tokenizer, each_question_stands_alone) {
  const json config = json::parse(read_file(kTokenizer / "tokenizer_config.json"));
  const formats::ChatTemplate chat(config["chat_template"].get<std::string>());
  const auto rendered = [&](const std::vector<ChatMessage>& messages, bool prompt) {
    return formats::render_chat(
        chat, messages,
        {.add_generation_prompt = prompt, .bos_token = "<|bos|>", .eos_token = "<|eos|>"});
  };
  const std::vector<ChatMessage> all = {{.role = "system", .content = "Be brief."},
                                        {.role = "user", .content = "one"},
                                        {.role = "assistant", .content = "1"},
                                        {.role = "user", .content = " two \n"}};
  EXPECT_EQ(rendered(all, true), "<|bos|><|user|>two<|assistant|>");
  EXPECT_EQ(rendered({all[1], all[2]}, false), "<|bos|><|user|>one<|assistant|>1<|eos|>");
}

ReasonEvalOptions few() {
  ReasonEvalOptions options;
  options.task.min_steps = 1;
  options.task.max_steps = 2;
  options.num_problems = 5;
  return options;
}

TEST(eval_reason, a_model_that_knows_nothing_is_never_right) {
  const TextModel model = load_random_model({});
  size_t calls = 0;
  const ReasonScore score =
      eval_reason(model, few(), CoreSet(), {}, [&](size_t done, size_t total) {
        EXPECT_EQ(done, ++calls);
        EXPECT_EQ(total, 5u);
      });
  EXPECT_EQ(calls, 5u);
  EXPECT_EQ(score.num_right(), 0u);
  EXPECT_EQ(score.num_unfinished(), 5u);
  EXPECT_GT(score.seconds, 0);
  for (const ReasonAnswer& answer : score.answers) {
    EXPECT_GE(answer.steps, 1u);
    EXPECT_LE(answer.steps, 2u);
    EXPECT_GT(answer.tokens, 0u);
  }
}

TEST(eval_reason, answers_do_not_depend_on_the_batch) {
  const TextModel model = load_random_model({});
  for (const double temperature : {0.0, 1.0}) {
    ReasonEvalOptions options = few();
    options.temperature = temperature;
    std::vector<size_t> lengths[2];
    for (const size_t batch : {1, 4}) {
      options.batch = batch;
      for (const ReasonAnswer& a : eval_reason(model, options, CoreSet()).answers)
        lengths[batch == 4].push_back(a.tokens);
    }
    EXPECT_EQ(lengths[0], lengths[1]) << temperature;
  }
}

TEST(eval_reason, quantiles_are_lengths_that_occur) {
  ReasonScore score;
  for (size_t tokens = 100; tokens > 0; --tokens) {
    ReasonAnswer answer{.tokens = tokens};
    answer.verdict.right = answer.verdict.finished = tokens % 4 == 0;
    score.answers.push_back(answer);
  }
  score.seconds = 2;
  EXPECT_EQ(score.token_quantile(0.5), 50u);
  EXPECT_EQ(score.token_quantile(0.99), 99u);
  EXPECT_EQ(score.token_quantile(1), 100u);
  EXPECT_EQ(score.num_right(), 25u);
  EXPECT_EQ(score.num_unfinished(), 75u);
  EXPECT_DOUBLE_EQ(score.tokens_per_second(), 2525);
}

TEST(eval_reason, a_problem_too_long_for_the_model_is_named) {
  const TextModel model = load_random_model({});
  ReasonEvalOptions options = few();
  options.task = tasks::options_of(tasks::ReasonLevel::kExtreme);
  try {
    eval_reason(model, options, CoreSet());
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
    EXPECT_NE(std::string(error.what()).find("problem 0 has"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace weft::text
