#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "formats/tokenizer.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

std::unique_ptr<Tokenizer> load(const std::string& name) {
  return load_gguf_tokenizer(GgufFile::open(std::string(WEFT_SOURCE_DIR) +
                                            "/tests/data/tokenizers/ggml-vocab-" + name + ".gguf"));
}

// GPT-2 has a token for every byte.
Token byte_token(const Tokenizer& tokenizer, char byte) {
  return tokenizer.encode({&byte, 1}, {.add_special = false}).at(0);
}

std::vector<std::string> stream(const Tokenizer& tokenizer, std::string_view bytes) {
  TokenStream stream(tokenizer);
  std::vector<std::string> texts;
  for (const char byte : bytes) texts.push_back(stream.push(byte_token(tokenizer, byte)));
  texts.push_back(stream.finish());
  return texts;
}

TEST(token_stream, never_splits_a_character) {
  const auto tokenizer = load("gpt-2");
  EXPECT_EQ(stream(*tokenizer, "a\xC3\xA9"), (std::vector<std::string>{"a", "", "é", ""}));
  EXPECT_EQ(stream(*tokenizer, "\xE2\x82\xAC"), (std::vector<std::string>{"", "", "€", ""}));
  EXPECT_EQ(stream(*tokenizer, "\xF0\x9F\x98\x80"),
            (std::vector<std::string>{"", "", "", "😀", ""}));
}

// Examples of Unicode 14, section 3.9 (tables 3-8 and 3-11), and the ends of the ranges.
TEST(token_stream, replaces_maximal_subparts) {
  const auto tokenizer = load("gpt-2");
  const std::pair<std::string, std::string> cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "��������A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "��������A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "�����A��B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "����A"},
      {"\xE2\x82", "�"},
      {"\xF0\x9F\x98", "�"},
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
      {"\xEE\x80\x80", "\xEE\x80\x80"},
  };
  for (const auto& [bytes, expected] : cases) {
    std::string text;
    for (const std::string& part : stream(*tokenizer, bytes)) text += part;
    EXPECT_EQ(text, expected) << testing::PrintToString(bytes);
  }
}

TEST(token_stream, takes_the_leading_space_off_once) {
  const auto tokenizer = load("llama-spm");
  const std::vector<Token> ids = tokenizer->encode("Hello there");  // <s> ▁Hello ▁there
  ASSERT_EQ(ids.size(), 3u);
  TokenStream alone(*tokenizer);
  EXPECT_EQ(alone.push(ids[0]), "");
  EXPECT_EQ(alone.push(ids[1]), "Hello");
  EXPECT_EQ(alone.push(ids[2]), " there");
  TokenStream continued(*tokenizer, /*show_special=*/false, LeadingSpace::kKept);
  EXPECT_EQ(continued.push(ids[1]), " Hello");
  TokenStream shown(*tokenizer, /*show_special=*/true);
  EXPECT_EQ(shown.push(ids[0]), "<s>");
  EXPECT_EQ(shown.push(ids[1]), " Hello");
}

TEST(token_stream, starts_anew_after_finish) {
  const auto tokenizer = load("llama-spm");
  const Token hello = tokenizer->encode("Hello").at(1);
  TokenStream stream(*tokenizer);
  EXPECT_EQ(stream.push(hello), "Hello");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push(hello), "Hello");
}

}  // namespace
}  // namespace weft::formats
