// weft inspect and weft quantize, the way a user meets them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/random_model.h"
#include "tests/process.h"

namespace weft::tests {
namespace {

class ModelFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("weft_model_files_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    formats::write_random_model(path("tiny.gguf"), "tiny", formats::quant_mix("f16"), 1, {});
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::filesystem::path folder_;
};

TEST_F(ModelFiles, quantize_then_inspect) {
  const Finished quantized =
      run_weft({"quantize", path("tiny.gguf"), path("q.gguf"), "--type", "q4_K_M"});
  EXPECT_EQ(quantized.exit_code, 0) << quantized.err;
  EXPECT_NE(quantized.out.find("5 f32"), std::string::npos) << quantized.out;
  const Finished shown = run_weft({"inspect", path("q.gguf"), "--json", "--context", "10"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  const auto model = nlohmann::json::parse(shown.out);
  EXPECT_EQ(model["metadata"]["general.file_type"], 15);
  EXPECT_EQ(model["memory"]["kv_bytes"], 10 * 1024);
  const Finished table = run_weft({"inspect", path("q.gguf"), "--tensors"});
  EXPECT_NE(table.out.find("blk.1.ffn_down.weight"), std::string::npos) << table.out;
}

TEST_F(ModelFiles, quantize_never_overwrites_unasked) {
  std::ofstream(path("taken.gguf")) << "precious";
  const Finished taken = run_weft({"quantize", path("tiny.gguf"), path("taken.gguf")});
  EXPECT_EQ(taken.exit_code, 2);
  EXPECT_NE(taken.err.find("--force"), std::string::npos) << taken.err;
  EXPECT_EQ(std::filesystem::file_size(path("taken.gguf")), 8u);
  EXPECT_EQ(run_weft({"quantize", path("tiny.gguf"), path("taken.gguf"), "--force"}).exit_code, 0);
  const Finished itself = run_weft({"quantize", path("tiny.gguf"), path("tiny.gguf"), "--force"});
  EXPECT_EQ(itself.exit_code, 2);
  EXPECT_NE(itself.err.find("is the input itself"), std::string::npos) << itself.err;
}

TEST_F(ModelFiles, bad_files_and_flags_end_in_one_line) {
  std::ofstream(path("text.gguf")) << "hello";
  const struct {
    std::vector<std::string> arguments;
    int exit_code;
    const char* message;
  } kRows[] = {
      {{"inspect", path("text.gguf")}, 2, "does not begin with 'GGUF'"},
      {{"inspect", path("missing.gguf")}, 3, "no such file"},
      {{"inspect", folder_.string()}, 3, "without config.json"},
      {{"quantize", path("tiny.gguf"), path("out.gguf"), "--type", "q9"}, 2, "'q9' is no type"},
      {{"quantize", path("tiny.gguf"), path("no/out.gguf")}, 3, "cannot create"},
      {{"quantize", path("tiny.gguf"), path("out.gguf"), "--threads", "0"}, 2, "--threads"},
  };
  for (const auto& row : kRows) {
    const Finished finished = run_weft(row.arguments);
    EXPECT_EQ(finished.exit_code, row.exit_code) << row.message;
    EXPECT_NE(finished.err.find(row.message), std::string::npos) << finished.err;
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
    EXPECT_FALSE(std::filesystem::exists(path("out.gguf")));
  }
}

}  // namespace
}  // namespace weft::tests
