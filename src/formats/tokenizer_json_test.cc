// tokenizer.json files of every kind that we read, against ids that the `tokenizers` library gave
// (tests/data/tokenizers_json/make.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "formats/tokenizer.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

using nlohmann::json;

std::string data(const std::string& name) {
  return read_file(std::string(WEFT_SOURCE_DIR) + "/tests/data/tokenizers_json/" + name);
}

std::unique_ptr<Tokenizer> load(const std::string& name) {
  return load_json_tokenizer(data(name + ".json"), "", name);
}

bool has_special(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  return std::any_of(tokens.begin(), tokens.end(), [&](Token token) {
    const TokenKind kind = tokenizer.kind(token);
    return kind == TokenKind::kControl || kind == TokenKind::kUnknown;
  });
}

class reference : public testing::TestWithParam<const char*> {};

TEST_P(reference, ids_and_text) {
  const auto tokenizer = load(GetParam());
  const json expected = json::parse(data(std::string(GetParam()) + ".expected.json"));
  ASSERT_GT(expected["cases"].size(), 70u);
  for (const json& item : expected["cases"]) {
    const std::string text = item["text"];
    const auto plain = tokenizer->encode(text, {.add_special = false});
    EXPECT_EQ(plain, item["plain_ids"].get<std::vector<Token>>()) << item["text"];
    EXPECT_EQ(tokenizer->encode(text), item["ids"].get<std::vector<Token>>()) << item["text"];
    // Tinystories' special tokens are "normalized": the library renames them on decoding ("▁<unk>")
    // and then shows them. Here they stay hidden.
    if (GetParam() == std::string("tinystories") && has_special(*tokenizer, plain)) continue;
    std::string decoded;  // the reference replaces what is no UTF-8
    append_valid_utf8(decoded, tokenizer->decode(item["plain_ids"].get<std::vector<Token>>()));
    EXPECT_EQ(decoded, item["decoded"].get<std::string>()) << item["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(json, reference,
                         testing::Values("gpt2", "gpt2_prefix_space", "smollm", "llama3",
                                         "llama3_by_regex", "qwen2", "qwen35", "tekken",
                                         "deepseek_v3", "deepseek_coder", "behaviors", "llama2",
                                         "metaspace_first", "metaspace_never", "unigram",
                                         "unigram_bytes", "tinystories"),
                         [](const auto& info) { return std::string(info.param); });

std::string random_bytes(std::mt19937& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST(json_tokenizer, any_bytes_come_back) {
  for (const char* name : {"gpt2", "smollm", "llama3", "llama3_by_regex", "tekken", "deepseek_v3",
                           "deepseek_coder", "qwen35", "llama2"}) {
    const auto tokenizer = load(name);
    std::mt19937 random(3);
    for (int i = 0; i < 100; ++i) {
      const std::string text = random_bytes(random, random() % 200);
      const auto ids = tokenizer->encode(text, {.add_special = false, .parse_special = false});
      // qwen35 normalizes; the bytes may be those of a composed character.
      if (std::string(name) == "qwen35" && to_nfc(text) != text) continue;
      ASSERT_EQ(tokenizer->decode(ids), text) << name << ", round " << i;
    }
  }
}

TEST(json_tokenizer, config_names_the_special_tokens) {
  const std::string config =
      R"({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"},
                                 "pad_token": null, "unk_token": "no such token"})";
  const auto tokenizer = load_json_tokenizer(data("llama3.json"), config, "llama3");
  EXPECT_EQ(tokenizer->special().bos, tokenizer->find("<|endoftext|>"));
  EXPECT_EQ(tokenizer->special().eos, tokenizer->find("<|im_end|>"));
  EXPECT_FALSE(tokenizer->special().padding);
  EXPECT_FALSE(tokenizer->special().unknown);
  EXPECT_TRUE(tokenizer->special().add_bos);  // the template puts it
  EXPECT_FALSE(tokenizer->special().add_eos);
  EXPECT_TRUE(tokenizer->is_end(*tokenizer->find("<|im_end|>")));
  EXPECT_FALSE(tokenizer->is_end(*tokenizer->find("<|im_start|>")));
}

TEST(json_tokenizer, llama_config_overrides_the_template) {
  const std::string config = R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>",
                                 "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true})";
  const auto tokenizer = load_json_tokenizer(data("llama2.json"), config, "llama2");
  const auto ids = tokenizer->encode("a");
  EXPECT_NE(ids.front(), *tokenizer->find("<s>"));
  EXPECT_EQ(ids.back(), *tokenizer->find("</s>"));
}

TEST(json_tokenizer, deep_nesting_is_refused) {
  const std::string deep(1 << 20, '[');
  EXPECT_THROW(load_json_tokenizer(deep, "", "deep"), Error);
  const std::string closed = std::string(1000, '[') + std::string(1000, ']');
  const std::string file =
      R"({"model": {"vocab": {"a": 0}}, "post_processor": {"type": "TemplateProcessing", "single": )" +
      closed + "}}";
  EXPECT_THROW(load_json_tokenizer(file, "", "deep"), Error);
}

struct BadFile {
  const char* name;
  const char* text;
  ErrorKind kind;
  const char* message;  // a part of it
};

const BadFile kBadFiles[] = {
    {"empty", "", ErrorKind::kInvalidInput, "no valid JSON at byte 1"},
    {"truncated", R"({"model": {"vocab": {"a": 0)", ErrorKind::kInvalidInput, "no valid JSON"},
    {"no_object", "[1]", ErrorKind::kInvalidInput, "'model' is missing"},
    {"no_model", "{}", ErrorKind::kInvalidInput, "'model' is missing"},
    {"no_vocabulary", R"({"model": {"type": "BPE"}})", ErrorKind::kInvalidInput, "empty"},
    {"word_piece", R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})",
     ErrorKind::kUnsupported, "'WordPiece'; known are BPE and Unigram"},
    {"merge_to_unknown",
     R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}})",
     ErrorKind::kInvalidInput, "makes 'ab', which is no token"},
    {"merge_of_unknown",
     R"({"model": {"type": "BPE", "vocab": {"a": 0, "ab": 1}, "merges": [["a", "b"]]}})",
     ErrorKind::kInvalidInput, "merge 0 is of 'b', which is no token"},
    {"merge_without_space", R"({"model": {"vocab": {"a": 0}, "merges": ["aa"]}})",
     ErrorKind::kInvalidInput, "merge without a space"},
    {"merge_of_three", R"({"model": {"vocab": {"a": 0}, "merges": [["a", "a", "a"]]}})",
     ErrorKind::kInvalidInput, "no pair"},
    {"id_twice", R"({"model": {"vocab": {"a": 0, "b": 0}, "merges": []}})",
     ErrorKind::kInvalidInput, "the id 0 is both 'a' and 'b'"},
    {"token_twice", R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})",
     ErrorKind::kInvalidInput, "'a' twice"},
    {"id_negative", R"({"model": {"vocab": {"a": -1}, "merges": []}})", ErrorKind::kInvalidInput,
     "has the id -1"},
    {"id_huge", R"({"model": {"vocab": {"a": 4000000000}, "merges": []}})",
     ErrorKind::kInvalidInput, "has the id 4000000000"},
    {"id_no_integer", R"({"model": {"vocab": {"a": 1.5}, "merges": []}})", ErrorKind::kInvalidInput,
     "no integer"},
    {"score_missing", R"({"model": {"type": "Unigram", "vocab": [["a"]]}})",
     ErrorKind::kInvalidInput, "no pair"},
    {"score_no_number", R"({"model": {"type": "Unigram", "vocab": [["a", "b"]]}})",
     ErrorKind::kInvalidInput, "a score that is no number"},
    {"added_other_text", R"({"model": {"vocab": {"a": 0}, "merges": []},
      "added_tokens": [{"id": 0, "content": "b"}]})",
     ErrorKind::kInvalidInput, "both 'a' and 'b'"},
    {"unknown_is_no_token", R"({"model": {"vocab": {"a": 0}, "merges": [], "unk_token": "u"}})",
     ErrorKind::kInvalidInput, "'u' is no token"},
    {"normalizer", R"({"model": {"vocab": {"a": 0}}, "normalizer": {"type": "BertNormalizer"}})",
     ErrorKind::kUnsupported, "normalizer is of type 'BertNormalizer'"},
    {"pre_tokenizer", R"({"model": {"vocab": {"a": 0}}, "pre_tokenizer": {"type": "Bert"}})",
     ErrorKind::kUnsupported, "pre_tokenizer is of type 'Bert'"},
    {"bad_regex", R"({"model": {"vocab": {"a": 0}}, "pre_tokenizer":
      {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}})",
     ErrorKind::kInvalidInput, "no regular expression"},
    {"class_intersection", R"({"model": {"vocab": {"a": 0}}, "pre_tokenizer":
      {"type": "Split", "pattern": {"Regex": "[\\p{L}&&[^\\p{Han}]]+"}, "behavior": "Isolated"}})",
     ErrorKind::kUnsupported, "&&"},
    {"post_processor",
     R"({"model": {"vocab": {"a": 0}}, "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"x": {"ids": [7]}}}})",
     ErrorKind::kInvalidInput, "has the id 7"},
    {"decoder", R"({"model": {"vocab": {"a": 0}}, "decoder": {"type": "WordPiece"}})",
     ErrorKind::kUnsupported, "decoder is of type 'WordPiece'"},
    {"deep_sequence", R"({"model": {"vocab": {"a": 0}}, "normalizer":
      {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [
      {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [
      {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []
      }]}]}]}]}]}]}]}]}})",
     ErrorKind::kUnsupported, "more than 8 deep"},
};

TEST(json_tokenizer, bad_files_give_one_clear_error) {
  for (const BadFile& bad : kBadFiles) {
    try {
      load_json_tokenizer(bad.text, "", "bad.json");
      ADD_FAILURE() << bad.name << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), bad.kind) << bad.name << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos)
          << bad.name << ": " << error.what();
      EXPECT_EQ(std::string(error.what()).rfind("bad.json: ", 0), 0u) << error.what();
    }
  }
}

// Changes bytes, doubles and drops stretches, and copies stretches about.
std::string mutated(std::string text, std::mt19937& random) {
  for (uint32_t i = 1 + random() % 4; i > 0 && !text.empty(); --i) {
    const size_t at = random() % text.size();
    const size_t size = std::min<size_t>(random() % 24, text.size() - at);
    const std::string part = text.substr(at, size);
    switch (random() % 5) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, size);
        break;
      case 2:
        text.insert(at, part);
        break;
      case 3:
        text.insert(random() % text.size(), part);
        break;
      case 4:
        text[at] = "\"\\{}[],:0-9e"[random() % 12];
        break;
    }
  }
  return text;
}

// Either loads and works, or says why not. The same as the fuzz target on its committed corpus.
void load_and_use(const std::string& text) {
  try {
    const auto tokenizer = load_json_tokenizer(text, "", "mutated");
    const auto ids =
        tokenizer->encode("Hello  wörld's 123\r\n\t<s>▁日本語 e\xCC\x81\xFF\xF0\x9F x");
    for (const Token id : ids) ASSERT_LT(static_cast<size_t>(id), tokenizer->vocab_size());
    tokenizer->decode(ids, /*show_special=*/true);
  } catch (const Error& error) {
    EXPECT_STRNE(error.what(), "");
  }
}

TEST(json_tokenizer, mutated_files_never_crash) {
  const std::filesystem::path corpus =
      std::string(WEFT_SOURCE_DIR) + "/tests/data/fuzz/tokenizer_json";
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    const std::string text = read_file(entry.path());
    load_and_use(text);
    ++files;
    std::mt19937 random(static_cast<uint32_t>(text.size()));
    for (int i = 0; i < 300; ++i) load_and_use(mutated(text, random));
  }
  EXPECT_GE(files, 12u);
}

}  // namespace
}  // namespace weft::formats
