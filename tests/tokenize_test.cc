// `weft tokenize` as a user runs it.
#include <gtest/gtest.h>

#include "tests/process.h"

namespace weft::tests {
namespace {

const std::string kData = std::string(WEFT_SOURCE_DIR) + "/tests/data/";
const std::string kGpt2 = kData + "tokenizers/ggml-vocab-gpt-2.gguf";
const std::string kLlama = kData + "tokenizers/ggml-vocab-llama-spm.gguf";

std::string output(std::vector<std::string> arguments, std::string_view input = "") {
  arguments.insert(arguments.begin(), "tokenize");
  const Finished finished = run_weft(arguments, input);
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  return finished.out;
}

TEST(tokenize, prints_ids_and_pieces) {
  EXPECT_EQ(output({"--model", kGpt2, "Hello world"}), "15496\tHello\n995\t world\n");
  EXPECT_EQ(output({"--model", kGpt2, "--ids", "Hello world"}), "15496 995\n");
  EXPECT_EQ(output({"--model", kGpt2, "--json", "Hello world"}),
            "{\"ids\":[15496,995],\"pieces\":[\"Hello\",\" world\"]}\n");
  EXPECT_EQ(output({"--model", kGpt2, "--ids", ""}), "\n");
}

TEST(tokenize, takes_standard_input_byte_by_byte) {
  EXPECT_EQ(output({"--model", kGpt2, "--stdin"}, "\n"), "198\t\\n\n");
  EXPECT_EQ(output({"--model", kGpt2, "--stdin"}, "\xFF\t\\"), "187\t\\xFF\n197\t\\t\n59\t\\\\\n");
  EXPECT_EQ(output({"--model", kGpt2, "--stdin", "--ids"}, ""), "\n");
}

TEST(tokenize, special_tokens) {
  EXPECT_EQ(output({"--model", kLlama, "--ids", "Hello</s>"}), "1 15043 2\n");
  EXPECT_EQ(output({"--model", kLlama, "--ids", "--no-bos", "Hello</s>"}), "15043 2\n");
  EXPECT_EQ(output({"--model", kLlama, "--ids", "--no-bos", "--no-special", "Hello</s>"}),
            "15043 829 29879 29958\n");
}

TEST(tokenize, mistakes) {
  EXPECT_EQ(run_weft({"tokenize", "--model", kGpt2}).exit_code, 2);
  EXPECT_EQ(run_weft({"tokenize", "--model", kGpt2, "--stdin", "text"}).exit_code, 2);
  const Finished missing = run_weft({"tokenize", "--model", kData + "no-such-file.gguf", "text"});
  EXPECT_NE(missing.exit_code, 0);
  EXPECT_NE(missing.err.find("no-such-file.gguf"), std::string::npos) << missing.err;
  const Finished folder = run_weft({"tokenize", "--model", kData + "tokenizers", "text"});
  EXPECT_NE(folder.err.find("has no tokenizer.json"), std::string::npos) << folder.err;
}

}  // namespace
}  // namespace weft::tests
