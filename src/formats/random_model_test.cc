#include "formats/random_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "kernels/quantize.h"

namespace weft::formats {
namespace {

class RandomModel : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / fmt::format("weft_random_model_{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string bytes(const char* mix, uint64_t seed, const CoreSet& cores = {}) {
    const auto path = folder_ / "model.gguf";
    write_random_model(path, "tiny", quant_mix(mix), seed, cores);
    return read_file(path);
  }
  std::filesystem::path folder_;
};

TEST_F(RandomModel, tiny_is_a_whole_model) {
  const auto path = folder_ / "tiny.gguf";
  write_random_model(path, "tiny", quant_mix("q4_K_M"), 1, {});
  const auto model = open_checkpoint(path);
  EXPECT_EQ(model->architecture(), "llama");
  EXPECT_EQ(model->require_int("block_count"), 2);
  EXPECT_EQ(model->tensor_names().size(), 2u * 9 + 3);
  EXPECT_EQ(model->require("output.weight").dtype, DType::kQ6_K);
  EXPECT_EQ(model->require("blk.0.ffn_gate.weight").dtype, DType::kQ4_K);
  const TensorView norm = model->require("output_norm.weight");
  EXPECT_EQ(*reinterpret_cast<const float*>(norm.row(0)), 1.0f);

  const TensorView gate = model->require("blk.1.ffn_gate.weight");
  std::vector<float> values(gate.shape.elements());
  kernels::dequantize(gate.dtype, gate.data, values.data(), values.size());
  double sum = 0, squares = 0;
  for (const float v : values) {
    sum += v;
    squares += double{v} * v;
  }
  const auto n = static_cast<double>(values.size());
  // 131072 normal values: the mean's standard error is 0.02 / 362, the deviation's 0.02 / 512;
  // pieces are drawn with replacement, and q4_K adds 0.3 % of noise to the deviation.
  EXPECT_NEAR(sum / n, 0, 5 * 0.02 / 362);
  EXPECT_NEAR(std::sqrt(squares / n), 0.02, 0.02 * 0.015);
}

TEST_F(RandomModel, vocabulary_is_valid) {
  const auto path = folder_ / "tiny.gguf";
  write_random_model(path, "tiny", quant_mix("q8_0"), 1, {});
  const GgufFile file = GgufFile::open(path);
  const auto tokens = file.get_array<std::string_view>("tokenizer.ggml.tokens").value();
  const auto merges = file.get_array<std::string_view>("tokenizer.ggml.merges").value();
  ASSERT_EQ(tokens.size(), 512u);
  const std::set<std::string_view> unique(tokens.begin(), tokens.end());
  EXPECT_EQ(unique.size(), tokens.size());
  for (const std::string_view merge : merges) {
    const size_t space = merge.find(' ');
    ASSERT_NE(space, merge.npos);
    const std::string left(merge.substr(0, space)), right(merge.substr(space + 1));
    EXPECT_TRUE(unique.contains(left) && unique.contains(right) && unique.contains(left + right))
        << merge;
  }
}

TEST_F(RandomModel, same_seed_same_bytes_on_any_number_of_cores) {
  ThreadPool pool(3);
  const std::string one = bytes("q4_0", 5);
  EXPECT_TRUE(bytes("q4_0", 5, pool.cores()) == one);
  EXPECT_FALSE(bytes("q4_0", 6) == one);
}

TEST_F(RandomModel, unknown_shape_lists_the_known) {
  try {
    write_random_model(folder_ / "x.gguf", "gpt-5", quant_mix("f16"), 1, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("qwen2.5-0.5b, "), std::string::npos);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(RandomModel, stopping_leaves_nothing) {
  const std::atomic<bool> stop = true;
  EXPECT_THROW(
      write_random_model(folder_ / "x.gguf", "tiny", quant_mix("f16"), 1, {}, StopToken(&stop)),
      Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

}  // namespace
}  // namespace weft::formats
