#include "train/example.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "formats/chat.h"
#include "tasks/reason.h"
#include "train/task_source.h"

namespace weft::train {
namespace {

using formats::Token;

const std::unique_ptr<formats::Tokenizer>& tokenizer() {
  static const auto loaded =
      formats::load_tokenizer(WEFT_SOURCE_DIR "/tests/data/hf_tokenizer/smollm");
  return loaded;
}

ExampleFormat format(size_t context = 512) {
  return {tokenizer().get(), std::string(formats::kChatMlTemplate), context};
}

// What is learnt, as text; the rest in between as |.
std::string learnt(const Example& example) {
  std::string text;
  bool before = true;
  for (size_t i = 0; i < example.tokens.size(); ++i) {
    const bool now = example.learn[i] != 0;
    if (!now && before) text += "|";
    if (now) text += tokenizer()->decode({{example.tokens[i]}}, true);
    before = now;
  }
  return text;
}

std::string text_of(const Example& example) { return tokenizer()->decode(example.tokens, true); }

TEST(example, permutations_are_permutations) {
  for (const uint64_t n : {1, 2, 3, 4, 5, 16, 17, 1000}) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < n; ++i) seen.insert(permuted(i, n, 9));
    EXPECT_EQ(seen.size(), n);
    EXPECT_LT(*seen.rbegin(), n);
  }
  size_t same = 0;
  for (uint64_t i = 0; i < 1000; ++i) same += permuted(i, 1000, 1) == permuted(i, 1000, 2) ? 1 : 0;
  EXPECT_LT(same, 20U);  // one is expected
}

TEST(example, of_a_completion_the_completion_is_learnt) {
  const Example example = make_example("hello", " world", format());
  const auto end = tokenizer()->special().eos;
  ASSERT_TRUE(end);
  EXPECT_EQ(example.tokens.back(), *end);
  EXPECT_EQ(learnt(example), "| world" + std::string(tokenizer()->text(*end)));
}

TEST(example, lines_of_each_kind) {
  const auto file = parse_jsonl(
      "{\"prompt\": \"a\", \"completion\": \"b\"}\n"
      "\n"
      "{\"text\": \"abc\"}\r\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
      "\"content\": \"b\"}, {\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", "
      "\"content\": \"d\"}]}",
      "x.jsonl", format());
  ASSERT_EQ(file.examples.size(), 3U);
  EXPECT_TRUE(learnt(file.examples[0]).starts_with("|b"));
  EXPECT_TRUE(learnt(file.examples[1]).starts_with("abc"));
  EXPECT_EQ(learnt(file.examples[2]), "|b<|im_end|>\n|d<|im_end|>\n");
  EXPECT_TRUE(text_of(file.examples[2]).ends_with("<|im_start|>assistant\nd<|im_end|>\n"));
  EXPECT_EQ(file.num_cut, 0U);
}

TEST(example, a_bad_line_is_named) {
  const struct {
    const char *line, *expected;
  } kCases[] = {
      {"{", "not JSON from byte 2 on"},
      {"[1]", "not a JSON object"},
      {"{}", "holds neither"},
      {R"({"prompt": "a"})", "\"completion\" is missing"},
      {R"({"prompt": 1, "completion": "a"})", "\"prompt\" is no string"},
      {R"({"text": null})", "\"text\" is no string"},
      {R"({"text": ""})", "nothing to learn"},
      {R"({"messages": []})", "no list of turns"},
      {R"({"messages": [{"role": "user"}]})", "a turn of \"messages\""},
      {R"({"messages": [{"role": "user", "content": "a"}]})", "nothing to learn"},
  };
  for (const auto& c : kCases) {
    const std::string text = std::string("{\"text\": \"fine\"}\n\n") + c.line + "\n";
    try {
      parse_jsonl(text, "data.jsonl", format());
      FAIL() << c.line;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
      EXPECT_TRUE(std::string(error.what()).starts_with("data.jsonl:3: ")) << error.what();
      EXPECT_NE(std::string(error.what()).find(c.expected), std::string::npos) << error.what();
    }
  }
  const ExampleFormat without{tokenizer().get(), std::nullopt, 64};
  EXPECT_THROW(
      parse_jsonl(R"({"messages": [{"role": "assistant", "content": "a"}]})", "x", without), Error);
}

TEST(example, long_ones_are_cut_and_counted) {
  const auto file = parse_jsonl("{\"text\": \"" + std::string(100, 'a') + "\"}\n{\"text\": \"a\"}",
                                "x", format(10));
  EXPECT_EQ(file.num_cut, 1U);
  EXPECT_EQ(file.examples[0].tokens.size(), 11U);
  // A prompt that fills the context leaves nothing to learn.
  EXPECT_THROW(parse_jsonl("{\"prompt\": \"" + std::string(100, 'a') + "\", \"completion\": \"b\"}",
                           "x", format(10)),
               Error);
}

struct TextFile {
  std::filesystem::path path = std::filesystem::path(::testing::TempDir()) /
                               ("weft_example_" + std::to_string(getpid()) + ".txt");
  explicit TextFile(const std::string& text) { std::ofstream(path) << text; }
  ~TextFile() { std::filesystem::remove(path); }
};

TEST(example, text_is_foretold_once) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>('a' + i * i % 23);
  const TextFile file(text);
  const std::vector<Token> all = tokenizer()->encode(text);
  const auto read = read_examples(file.path, format(16));
  size_t next = 0;
  for (const Example& example : read.examples) {
    EXPECT_LE(example.tokens.size(), 17U);
    EXPECT_TRUE(std::equal(example.tokens.begin(), example.tokens.end(), all.begin() + next));
    next += example.tokens.size() - 1;
  }
  EXPECT_EQ(next + 1, all.size());
}

TEST(example, files_are_shuffled_anew_in_each_epoch) {
  const TextFile file(std::string(2000, 'a') + std::string(2000, 'b'));
  const auto sources = open_sources({file.path.string()}, format(8), 3, open_task);
  const uint64_t n = sources.source->size();
  ASSERT_EQ(n, sources.num_file_examples);
  const auto epoch = [&](uint64_t number) {
    std::vector<std::vector<int32_t>> out;
    for (uint64_t i = 0; i < n; ++i) out.push_back(sources.source->at(number * n + i).tokens);
    return out;
  };
  auto first = epoch(0), second = epoch(1);
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
}

TEST(example, sources_take_turns) {
  const TextFile file("abababababab");
  const auto sources =
      open_sources({file.path.string(), "task:reason?level=easy"}, format(), 3, open_task);
  EXPECT_EQ(sources.source->size(), 0U);
  const auto task = open_task("reason?level=easy", format(), 3);
  for (uint64_t i = 0; i < 10; ++i)
    EXPECT_EQ(sources.source->at(2 * i).tokens, task->at(i).tokens) << i;
}

TEST(task_source, names_what_it_does_not_know) {
  const struct {
    const char *task, *expected;
  } kCases[] = {{"chess", "there is: reason"},
                {"reason?levels=easy", "there are level and split"},
                {"reason?level=trivial", "task:reason?level=trivial: "},
                {"reason?split=dev", "task:reason?split=dev: "}};
  for (const auto& c : kCases) {
    try {
      open_task(c.task, format(), 1);
      FAIL() << c.task;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(c.expected), std::string::npos) << error.what();
    }
  }
}

// As chat, the server and `weft eval reason` ask them, whether pieces or text are looked up.
TEST(task_source, problems_are_asked_as_the_chat_template_asks) {
  const std::filesystem::path folder = WEFT_SOURCE_DIR "/share/models/reasoner-tokenizer";
  const auto own = formats::load_tokenizer(folder);
  const std::string config = read_file(folder / "tokenizer_config.json");
  const ExampleFormat own_format{
      own.get(), nlohmann::json::parse(config)["chat_template"].get<std::string>(), 4096};
  for (uint64_t i = 0; i < 50; ++i) {
    const auto options = tasks::options_of(tasks::ReasonLevel::kMixed);
    const auto problem = tasks::make_reason(options, tasks::ReasonSplit::kTest, 4, i);
    const auto pieces = tasks::write_reason(problem, 4, i);
    const std::string prompt = tasks::join_pieces(pieces.prompt),
                      answer = tasks::join_pieces(pieces.completion);
    const Example example = open_task("reason?level=mixed&split=test", own_format, 4)->at(i);
    EXPECT_EQ(own->decode(example.tokens, true),
              "<|bos|><|user|>" + prompt + "<|assistant|>" + answer + "<|eos|>");
    const auto learnt_from =
        std::find(example.learn.begin(), example.learn.end(), 1) - example.learn.begin();
    EXPECT_EQ(own->text(example.tokens[static_cast<size_t>(learnt_from) - 1]), "<|assistant|>");
    EXPECT_EQ(std::count(example.learn.begin() + learnt_from, example.learn.end(), 0), 0);
    const Example by_text = open_task("reason?level=mixed&split=test", format(4096), 4)->at(i);
    EXPECT_EQ(text_of(by_text), "<|im_start|>user\n" + prompt +
                                    "<|im_end|>\n<|im_start|>assistant\n" + answer +
                                    std::string(tokenizer()->text(*tokenizer()->special().eos)));
  }
}

TEST(task_source, levels_take_turns_and_splits_differ) {
  const auto both = open_task("reason?level=easy,medium", format(4096), 1);
  size_t easy = 0, medium = 0;
  for (uint64_t i = 0; i < 40; ++i) (i % 2 == 0 ? easy : medium) += both->at(i).tokens.size();
  EXPECT_LT(easy, medium);
  const auto train = open_task("reason?level=easy&split=train", format(4096), 1);
  const auto test = open_task("reason?level=easy&split=test", format(4096), 1);
  EXPECT_NE(train->at(0).tokens, test->at(0).tokens);
  EXPECT_EQ(train->at(5).tokens, open_task("reason?level=easy", format(4096), 1)->at(5).tokens);
}

}  // namespace
}  // namespace weft::train
