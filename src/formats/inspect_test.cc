#include "formats/inspect.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/random_model.h"

namespace weft::formats {
namespace {

using nlohmann::ordered_json;

class Inspect : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / fmt::format("weft_inspect_{}.gguf", getpid());
};

TEST_F(Inspect, a_gguf_model) {
  write_random_model(path_, "tiny", quant_mix("q8_0"), 1, {});
  const ordered_json out = inspect(path_, 100);
  EXPECT_EQ(out["container"], "GGUF v3");
  EXPECT_EQ(out["file_bytes"], std::filesystem::file_size(path_));
  EXPECT_EQ(out["architecture"], "llama");
  EXPECT_EQ(out["hyperparameters"]["block_count"], 2);
  EXPECT_EQ(out["metadata"]["general.name"], "random tiny (seed 1)");
  EXPECT_EQ(out["metadata"]["tokenizer.ggml.tokens"]["length"], 512);
  EXPECT_EQ(out["metadata"]["tokenizer.ggml.tokens"]["first"].size(), 4u);
  // Embedding and head 512 x 256; per layer q and output 256 x 256, k and v 128 x 256, three of
  // 512 x 256, two norms; the last norm.
  EXPECT_EQ(out["parameters"],
            2 * 512 * 256 + 2 * (2 * 65536 + 2 * 32768 + 3 * 131072 + 512) + 256);
  EXPECT_EQ(out["tensors"].size(), 21u);
  EXPECT_EQ(out["tensors"][0]["shape"], (ordered_json{512, 256}));
  ASSERT_EQ(out["tensor_types"].size(), 2u);
  EXPECT_EQ(out["tensor_types"][0]["type"], "f32");
  EXPECT_EQ(out["tensor_types"][0]["bytes"], 5 * 256 * 4);
  EXPECT_EQ(out["tokenizer"], (ordered_json{{"kind", "gpt2, gpt-2"}, {"tokens", 512}}));
  EXPECT_EQ(out["chat_template"], false);
  EXPECT_EQ(out["memory"]["kv_bytes_per_token"],
            2 * 2 * (64 + 64) * 2);  // layers, heads, k + v, f16
  EXPECT_EQ(out["memory"]["kv_bytes"], 100 * 1024);
  EXPECT_EQ(inspect(path_, 0)["memory"]["context"], 512) << "what it was trained for";
}

TEST_F(Inspect, a_mixture_of_experts) {
  EXPECT_TRUE([&] {
    write_random_model(path_, "tiny", quant_mix("q8_0"), 1, {});
    return inspect(path_, 0)["experts"].is_null();
  }());
  write_random_model(path_, "megrez2-tiny", quant_mix("f16"), 1, {});
  const ordered_json out = inspect(path_, 0)["experts"];
  // Two groups of three layers, each of 8 experts of width 64; 2 are computed in each of six layers.
  const size_t expert = 3 * 64 * 128;
  EXPECT_EQ(out["groups_that_share"], 2);
  EXPECT_EQ(out["layers_with_experts"], 6);
  EXPECT_EQ(out["expert_bytes"], 16 * expert * 2);
  EXPECT_EQ(out["one_expert_bytes"], expert * 2);
  const size_t stored = inspect(path_, 0)["parameters"].get<size_t>();
  EXPECT_EQ(out["active_parameters"], stored - 16 * expert + 12 * expert - 512 * 128);
}

TEST_F(Inspect, a_vocabulary_alone) {
  {
    GgufWriter writer(path_);
    writer.set_string("general.architecture", "llama");
    const std::string_view tokens[] = {"a", "b"};
    writer.set_strings("tokenizer.ggml.tokens", tokens);
    writer.commit();
  }
  const ordered_json out = inspect(path_, 0);
  EXPECT_EQ(out["tokenizer"]["tokens"], 2);
  EXPECT_EQ(out["parameters"], 0);
  EXPECT_TRUE(out["memory"].is_null());
}

TEST_F(Inspect, a_gguf_that_is_no_model) {
  {
    GgufWriter writer(path_);
    writer.set_f32("x", 1);
    writer.commit();
  }
  const ordered_json out = inspect(path_, 0);
  EXPECT_TRUE(out["architecture"].is_null());
  EXPECT_TRUE(out["tokenizer"].is_null());
}

TEST(inspect, a_hugging_face_folder) {
  const ordered_json out = inspect(WEFT_SOURCE_DIR "/tests/data/hf_folder/qwen3", 0);
  EXPECT_EQ(out["container"], "Hugging Face folder");
  EXPECT_EQ(out["architecture"], "qwen3");
  EXPECT_EQ(out["chat_template"], true);
  EXPECT_TRUE(out["tokenizer"].is_null());
  EXPECT_FALSE(out.contains("metadata"));
  EXPECT_EQ(out["tensor_types"][0]["type"], "bf16");
  EXPECT_EQ(out["memory"]["kv_bytes_per_token"], 2 * 2 * (16 + 16) * 2);
  EXPECT_EQ(out["memory"]["weight_bytes"], out["tensor_types"][0]["bytes"]);
}

}  // namespace
}  // namespace weft::formats
