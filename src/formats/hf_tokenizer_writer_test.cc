#include "formats/hf_tokenizer_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "formats/gguf_tokenizer_writer.h"
#include "formats/tokenizer.h"

namespace weft::formats {
namespace {

namespace fs = std::filesystem;
const fs::path kFolders = WEFT_SOURCE_DIR "/tests/data/hf_tokenizer";

struct Scratch {
  fs::path path =
      fs::path(::testing::TempDir()) / ("weft_hf_tokenizer_" + std::to_string(getpid()));
  Scratch() { fs::create_directories(path / "again"); }
  ~Scratch() { fs::remove_all(path); }
};

constexpr const char* kTexts[] = {"", "hello world", "  two  spaces\n\n and 12345 digits, it's \t",
                                  "na\xc3\xafve \xe2\x82\xac 10,50 \xf0\x9f\x98\x80",
                                  "<|end|>x<|begin|>"};

// A folder's tokenizer, by way of GGUF and back, cuts text as before.
TEST(hf_tokenizer_writer, there_and_back) {
  for (const char* kind : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const Scratch scratch;
    const fs::path gguf = scratch.path / "vocab.gguf", again = scratch.path / "again";
    const auto before = load_tokenizer(kFolders / kind);
    {
      GgufWriter writer(gguf);
      writer.set_string("general.architecture", "llama");
      writer.set_string("tokenizer.chat_template", "{{ messages }}");
      ASSERT_TRUE(write_gguf_tokenizer(writer, kFolders / kind, before->vocab_size()));
      writer.commit();
    }
    write_hf_tokenizer(GgufFile::open(gguf), again);
    const auto after = load_tokenizer(again);
    ASSERT_EQ(after->vocab_size(), before->vocab_size());
    EXPECT_EQ(after->special().eos, before->special().eos) << kind;
    EXPECT_EQ(after->special().bos, before->special().bos) << kind;
    for (const char* text : kTexts) {
      EXPECT_EQ(after->encode(text), before->encode(text)) << kind << ": " << text;
      const EncodeOptions plain{.add_special = false, .parse_special = false};
      EXPECT_EQ(after->encode(text, plain), before->encode(text, plain)) << kind << ": " << text;
    }
    EXPECT_NE(read_file(again / "tokenizer_config.json").find("{{ messages }}"), std::string::npos);
  }
}

// Of a real vocabulary, against what llama.cpp's tokenizer gives for it (tests/data/tokenizers).
TEST(hf_tokenizer_writer, a_real_vocabulary) {
  const Scratch scratch;
  const fs::path gguf = WEFT_SOURCE_DIR "/tests/data/tokenizers/ggml-vocab-gpt-2.gguf";
  write_hf_tokenizer(GgufFile::open(gguf), scratch.path / "again");
  const auto before = load_tokenizer(gguf), after = load_tokenizer(scratch.path / "again");
  const std::string text = read_file(gguf.string() + ".inp");
  EXPECT_EQ(after->encode(text), before->encode(text));
}

TEST(hf_tokenizer_writer, other_kinds_are_refused) {
  const Scratch scratch;
  const fs::path gguf = WEFT_SOURCE_DIR "/tests/data/tokenizers/ggml-vocab-llama-spm.gguf";
  try {
    write_hf_tokenizer(GgufFile::open(gguf), scratch.path);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  }
}

}  // namespace
}  // namespace weft::formats
