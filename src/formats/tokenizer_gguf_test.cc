// Vocabulary-only GGUF files against the ids that llama.cpp publishes for them.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_vocabulary.h"

namespace weft::formats {
namespace {

std::string data_path(const std::string& name) {
  return std::string(WEFT_SOURCE_DIR) + "/tests/data/tokenizers/" + name;
}

std::unique_ptr<Tokenizer> load(const std::string& name) {
  return load_gguf_tokenizer(GgufFile::open(data_path("ggml-vocab-" + name + ".gguf")));
}

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t found; (found = text.find(separator, begin)) != std::string::npos;) {
    parts.push_back(text.substr(begin, found - begin));
    begin = found + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

std::vector<Token> parse_ids(const std::string& line) {
  std::vector<Token> ids;
  for (const std::string& word : split(line, " ")) {
    if (!word.empty()) ids.push_back(std::stoi(word));
  }
  return ids;
}

class published : public testing::TestWithParam<std::string> {};

TEST_P(published, ids) {
  const auto tokenizer = load(GetParam());
  const std::string base = data_path("ggml-vocab-" + GetParam() + ".gguf");
  const auto inputs = split(read_file(base + ".inp"), "\n__ggml_vocab_test__\n");
  const auto outputs = split(read_file(base + ".out"), "\n");
  ASSERT_GE(outputs.size(), inputs.size());
  ASSERT_GT(inputs.size(), 40u);
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(tokenizer->encode(inputs[i], {.add_special = false, .parse_special = false}),
              parse_ids(outputs[i]))
        << "input " << i << ": '" << inputs[i] << "'";
  }
}

INSTANTIATE_TEST_SUITE_P(gguf, published,
                         testing::Values("gpt-2", "falcon", "deepseek-coder", "llama-spm"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

std::string random_bytes(std::mt19937& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST(gguf_tokenizer, byte_level_round_trip) {
  std::mt19937 random(7);
  // GPT-2 has every byte. (Falcon and DeepSeek lack those that no UTF-8 has; like the reference,
  // they drop them.)
  const auto tokenizer = load("gpt-2");
  for (int i = 0; i < 400; ++i) {
    const std::string text = random_bytes(random, random() % 300);
    const auto ids = tokenizer->encode(text, {.add_special = false, .parse_special = false});
    ASSERT_EQ(tokenizer->decode(ids), text) << "round " << i;
  }
}

TEST(gguf_tokenizer, bytes_without_token_are_dropped) {
  // DeepSeek's added token "À" spells the letter that stands for byte C0, but is the character.
  const auto tokenizer = load("deepseek-coder");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xC0z", {.add_special = false})), "az");
  EXPECT_EQ(tokenizer->encode("À", {.add_special = false}), (std::vector<Token>{32004}));
}

TEST(gguf_tokenizer, sentencepiece_round_trip) {
  const auto tokenizer = load("llama-spm");
  std::mt19937 random(8);
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_bytes(random, random() % 300);
    const auto ids = tokenizer->encode(text, {.add_special = false, .parse_special = false});
    ASSERT_EQ(tokenizer->decode(ids), text) << "round " << i;
  }
}

// Merges are known by the hash of their texts.
TEST(gguf_tokenizer, text_hashes_are_distinct) {
  for (const char* name : {"gpt-2", "falcon", "deepseek-coder", "llama-spm"}) {
    const auto tokenizer = load(name);
    std::map<uint64_t, std::string_view> seen;
    for (size_t id = 0; id < tokenizer->vocab_size(); ++id) {
      const std::string_view text = tokenizer->text(static_cast<Token>(id));
      const auto [at, fresh] = seen.emplace(hash_text(text), text);
      EXPECT_TRUE(fresh) << "'" << text << "' and '" << at->second << "'";
    }
  }
}

TEST(gguf_tokenizer, adds_bos_as_the_file_asks) {
  EXPECT_EQ(load("llama-spm")->encode("Hello"), (std::vector<Token>{1, 15043}));
  EXPECT_EQ(load("llama-spm")->encode(""), (std::vector<Token>{1}));
  EXPECT_EQ(load("gpt-2")->encode("Hello"), (std::vector<Token>{15496}));
  EXPECT_EQ(load("deepseek-coder")->encode("", {.parse_special = false}),
            (std::vector<Token>{32013}));
}

TEST(gguf_tokenizer, special_text_is_parsed_only_when_asked) {
  const auto tokenizer = load("llama-spm");
  EXPECT_EQ(tokenizer->encode("</s>", {.add_special = false}), (std::vector<Token>{2}));
  const auto spelled = tokenizer->encode("</s>", {.add_special = false, .parse_special = false});
  EXPECT_EQ(tokenizer->decode(spelled), "</s>");
  for (const Token token : spelled) EXPECT_NE(tokenizer->kind(token), TokenKind::kControl);
}

TEST(gguf_tokenizer, control_tokens_are_hidden) {
  const auto tokenizer = load("llama-spm");
  const std::vector<Token> ids{1, 15043, 2};
  EXPECT_EQ(tokenizer->decode(ids), "Hello");
  EXPECT_EQ(tokenizer->decode(ids, /*show_special=*/true), "<s> Hello</s>");
}

TEST(gguf_tokenizer, knows_what_ends_an_answer) {
  EXPECT_TRUE(load("llama-spm")->is_end(2));
  EXPECT_FALSE(load("llama-spm")->is_end(1));
  EXPECT_TRUE(load("gpt-2")->is_end(50256));
  EXPECT_TRUE(load("falcon")->is_end(11));
}

TEST(gguf_tokenizer, refuses_tokens_outside_the_vocabulary) {
  const auto tokenizer = load("gpt-2");
  EXPECT_EQ(tokenizer->vocab_size(), 50257u);
  for (const Token token : {-1, 50257, 1 << 30}) {
    EXPECT_THROW(tokenizer->piece(token), Error);
    EXPECT_THROW(tokenizer->kind(token), Error);
    EXPECT_THROW(tokenizer->text(token), Error);
    EXPECT_FALSE(tokenizer->is_end(token));
  }
}

TEST(gguf_tokenizer, long_runs_take_no_quadratic_time) {
  const std::string letters(1 << 18, 'a'), spaces(1 << 18, ' '), lines(1 << 18, '\n');
  for (const char* name : {"gpt-2", "falcon", "deepseek-coder", "llama-spm"}) {
    const auto tokenizer = load(name);
    for (const std::string& text : {letters, spaces, lines}) {
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << name;
    }
  }
}

// A GGUF file of metadata only, written field by field.
class Metadata {
 public:
  Metadata& text(const std::string& key, const std::string& value) {
    begin(key, 8);
    put_text(value);
    return *this;
  }
  Metadata& number(const std::string& key, uint32_t value) {
    begin(key, 4);
    put(value);
    return *this;
  }
  Metadata& texts(const std::string& key, const std::vector<std::string>& values) {
    begin_array(key, 8, values.size());
    for (const std::string& value : values) put_text(value);
    return *this;
  }
  Metadata& kinds(const std::vector<int32_t>& values) {
    begin_array("tokenizer.ggml.token_type", 5, values.size());
    for (const int32_t value : values) put(value);
    return *this;
  }
  Metadata& scores(const std::vector<float>& values) {
    begin_array("tokenizer.ggml.scores", 6, values.size());
    for (const float value : values) put(value);
    return *this;
  }
  std::unique_ptr<Tokenizer> load() const {
    std::string bytes = "GGUF";
    const auto append = [&bytes](auto value) {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    append(uint32_t{3});
    append(uint64_t{0});
    append(uint64_t{count_});
    bytes += body_;
    return load_gguf_tokenizer(GgufFile::parse(
        {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "bad.gguf"));
  }

 private:
  template <typename T>
  void put(T value) {
    body_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put_text(const std::string& value) {
    put<uint64_t>(value.size());
    body_ += value;
  }
  void begin(const std::string& key, uint32_t type) {
    put_text(key);
    put(type);
    ++count_;
  }
  void begin_array(const std::string& key, uint32_t element, size_t size) {
    begin(key, 9);
    put(element);
    put<uint64_t>(size);
  }
  std::string body_;
  uint64_t count_ = 0;
};

const std::string kModel = "tokenizer.ggml.model", kTokens = "tokenizer.ggml.tokens",
                  kMerges = "tokenizer.ggml.merges", kPre = "tokenizer.ggml.pre";

TEST(gguf_tokenizer, outlives_parsed_bytes) {
  const auto tokenizer = Metadata()
                             .text(kModel, "gpt2")
                             .texts(kTokens, {"a", "b", "ab"})
                             .texts(kMerges, {"a b"})
                             .load();
  EXPECT_EQ(tokenizer->encode("ab"), (std::vector<Token>{2}));
  EXPECT_EQ(tokenizer->text(2), "ab");
}

TEST(gguf_tokenizer, bad_files_give_one_clear_error) {
  struct Bad {
    Metadata metadata;
    ErrorKind kind;
    const char* message;
  };
  const auto spm = [] { return Metadata().text(kModel, "llama").texts(kTokens, {"a", "b"}); };
  const auto bpe = [] { return Metadata().text(kModel, "gpt2").texts(kTokens, {"a", "b"}); };
  const Bad cases[] = {
      {Metadata(), ErrorKind::kInvalidInput, "tokenizer.ggml.model is missing"},
      {Metadata().text(kModel, "gpt2"), ErrorKind::kInvalidInput,
       "tokenizer.ggml.tokens is missing"},
      {Metadata().text(kModel, "bert").texts(kTokens, {"a"}), ErrorKind::kUnsupported,
       "'bert'; known are gpt2, llama and t5"},
      {Metadata().text(kModel, "gpt2").text(kTokens, "a"), ErrorKind::kInvalidInput,
       "not an array of strings"},
      {bpe(), ErrorKind::kInvalidInput, "tokenizer.ggml.merges is missing"},
      {bpe().texts(kMerges, {"a b"}), ErrorKind::kInvalidInput, "makes 'ab', which is no token"},
      {bpe().texts(kMerges, {"ab"}), ErrorKind::kInvalidInput, "not two texts"},
      {bpe().texts(kMerges, {}).text(kPre, "martian"), ErrorKind::kUnsupported, "'martian'"},
      {bpe().texts(kMerges, {}).number("tokenizer.ggml.bos_token_id", 2), ErrorKind::kInvalidInput,
       "bos_token_id is 2, but the vocabulary has 2 tokens"},
      {bpe().texts(kMerges, {}).kinds({1}), ErrorKind::kInvalidInput,
       "token_type has 1 entries for 2 tokens"},
      {bpe().texts(kMerges, {}).kinds({1, 6}), ErrorKind::kInvalidInput, "token 1 is a byte"},
      {Metadata().text(kModel, "gpt2").texts(kTokens, {"a", "a"}), ErrorKind::kInvalidInput,
       "'a' twice: tokens 0 and 1"},
      {spm(), ErrorKind::kInvalidInput, "tokenizer.ggml.scores is missing"},
      {spm().scores({0}), ErrorKind::kInvalidInput, "scores has 1 entries for 2 tokens"},
  };
  for (const Bad& bad : cases) {
    try {
      bad.metadata.load();
      ADD_FAILURE() << "accepted, not refused with: " << bad.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), bad.kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).rfind("bad.gguf: ", 0), 0u) << error.what();
    }
  }
}

}  // namespace
}  // namespace weft::formats
