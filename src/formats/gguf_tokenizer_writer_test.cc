#include "formats/gguf_tokenizer_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/tokenizer.h"

namespace weft::formats {
namespace {

using nlohmann::json;
const std::filesystem::path kFolders = WEFT_SOURCE_DIR "/tests/data/hf_tokenizer";

class GgufTokenizerWriter : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("weft_tokenizer_{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  GgufFile written(const std::filesystem::path& from, size_t vocab_size) {
    GgufWriter writer(folder_ / "out.gguf");
    EXPECT_TRUE(write_gguf_tokenizer(writer, from, vocab_size));
    writer.commit();
    return GgufFile::open(folder_ / "out.gguf");
  }
  void edit(const json& tokenizer) { std::ofstream(folder_ / "tokenizer.json") << tokenizer; }
  std::string complaint(size_t vocab_size = 1000) {
    try {
      written(folder_, vocab_size);
      return "accepted";
    } catch (const Error& error) {
      return error.what();
    }
  }
  std::filesystem::path folder_;
};

TEST_F(GgufTokenizerWriter, encodes_as_the_tokenizers_library_does) {
  for (const char* name : {"gpt-2", "smollm", "qwen2", "llama-bpe"}) {
    const json expected = json::parse(read_file(kFolders / name / "expected.json"));
    const GgufFile file = written(kFolders / name, expected["vocab_size"]);
    EXPECT_EQ(file.get_string("tokenizer.ggml.pre"), name);
    EXPECT_EQ(file.get_bool("tokenizer.ggml.add_bos_token"), std::string(name) == "llama-bpe");
    const auto tokenizer = load_gguf_tokenizer(file);
    EXPECT_EQ(tokenizer->vocab_size(), expected["vocab_size"].get<size_t>());
    EXPECT_EQ(tokenizer->special().bos, tokenizer->find("<|begin|>")) << name;
    EXPECT_EQ(tokenizer->special().eos, tokenizer->find("<|end|>")) << name;
    EXPECT_EQ(tokenizer->kind(static_cast<Token>(tokenizer->vocab_size() - 1)), TokenKind::kUnused);
    for (const json& row : expected["encodings"]) {
      const std::vector<Token> ids = row["ids"];
      EXPECT_EQ(tokenizer->encode(row["text"].get<std::string>()), ids)
          << name << ": " << row["text"];
    }
  }
}

TEST_F(GgufTokenizerWriter, a_folder_without_tokenizer_writes_nothing) {
  GgufWriter writer(folder_ / "out.gguf");
  EXPECT_FALSE(write_gguf_tokenizer(writer, folder_, 10));
}

TEST_F(GgufTokenizerWriter, what_gguf_cannot_express_is_refused) {
  const json good = json::parse(read_file(kFolders / "qwen2" / "tokenizer.json"));
  const struct {
    const char* pointer;
    json value;
    const char* message;
  } kRows[] = {
      {"/model/type", "Unigram", "this kind of tokenizer"},
      {"/pre_tokenizer", nullptr, "this kind of tokenizer"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+", "this kind of tokenizer"},
      {"/pre_tokenizer/pretokenizers/1/type", "Whitespace", "this kind of tokenizer"},
      {"/model/vocab", 7, "model.vocab is missing"},
      {"/model/merges", {1}, "a merge is neither"},
      {"/model/vocab/a", -1, "has id -1"},
      {"/model/vocab/a", 1000, "has id 1000, but the model's vocab_size is 1000"},
  };
  for (const auto& row : kRows) {
    json changed = good;
    changed[json::json_pointer(row.pointer)] = row.value;
    edit(changed);
    const std::string message = complaint();
    EXPECT_NE(message.find(row.message), std::string::npos) << row.pointer << ": " << message;
  }
}

}  // namespace
}  // namespace weft::formats
