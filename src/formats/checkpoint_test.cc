#include "formats/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "formats/gguf.h"

namespace weft::formats {
namespace {

class CheckpointFile : public testing::Test {
 protected:
  void SetUp() override {
    path_ =
        std::filesystem::temp_directory_path() / fmt::format("weft_checkpoint_{}.gguf", getpid());
  }
  void TearDown() override { std::filesystem::remove(path_); }
  void write(const char* architecture) {
    GgufWriter writer(path_);
    if (architecture != nullptr) writer.set_string("general.architecture", architecture);
    writer.set_u32("qwen2.block_count", 3);
    writer.set_f32("qwen2.rope.freq_base", 1e6f);
    writer.set_string("qwen2.rope.scaling.type", "yarn");
    writer.set_string("qwen2x.other", "not ours");
    writer.set_string("tokenizer.chat_template", "{{ x }}");
    writer.declare("z", DType::kF32, {2});
    writer.declare("a", DType::kF32, {2});
    const float values[] = {1, 2, 3, 4};
    writer.write(values, 8);
    writer.write(values + 2, 8);
    writer.commit();
  }
  std::filesystem::path path_;
};

TEST_F(CheckpointFile, gguf_keys_are_read_without_the_architecture) {
  write("qwen2");
  const auto model = open_checkpoint(path_);
  EXPECT_EQ(model->architecture(), "qwen2");
  EXPECT_FALSE(model->rope_interleaved());
  EXPECT_EQ(model->require_int("block_count"), 3);
  EXPECT_EQ(model->require_float("rope.freq_base"), 1e6);
  EXPECT_EQ(model->get_string("rope.scaling.type"), "yarn");
  EXPECT_EQ(model->chat_template(), "{{ x }}");
  EXPECT_EQ(model->tensor_names(), (std::vector<std::string>{"z", "a"})) << "in the file's order";
  EXPECT_EQ(*reinterpret_cast<const float*>(model->require("a").row(0)), 3.0f);
  EXPECT_EQ(model->hyperparameters().size(), 3u) << "those of this architecture only";
  ASSERT_NE(model->gguf(), nullptr);
  model->release(model->require("a"));
  EXPECT_EQ(*reinterpret_cast<const float*>(model->require("a").row(0)), 3.0f) << "comes back";
}

TEST_F(CheckpointFile, ggufs_llama_is_interleaved) {
  write("llama");
  EXPECT_TRUE(open_checkpoint(path_)->rope_interleaved());
}

TEST_F(CheckpointFile, a_gguf_without_architecture_is_no_model) {
  write(nullptr);
  EXPECT_THROW(open_checkpoint(path_)->architecture(), Error);
}

TEST(checkpoint, a_missing_file_is_not_found) {
  try {
    open_checkpoint("/nonexistent/model.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  }
}

}  // namespace
}  // namespace weft::formats
