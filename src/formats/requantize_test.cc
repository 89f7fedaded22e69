#include "formats/requantize.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "formats/random_model.h"
#include "formats/tokenizer.h"
#include "kernels/quantize.h"

namespace weft::formats {
namespace {

const std::filesystem::path kFolders = WEFT_SOURCE_DIR "/tests/data/hf_folder";

std::vector<float> values_of(const TensorView& view) {
  std::vector<float> out(view.shape.elements());
  kernels::dequantize(view.dtype, view.data, out.data(), out.size());
  return out;
}

class Requantize : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("weft_requantize_{}", getpid());
    std::filesystem::create_directories(folder_);
    write_random_model(source_path(), "tiny", quant_mix("f16"), 3, {});
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path source_path() const { return folder_ / "source.gguf"; }
  std::filesystem::path out_path() const { return folder_ / "out.gguf"; }
  size_t files_in_folder() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }
  std::filesystem::path folder_;
};

TEST_F(Requantize, rows_are_quantised_and_metadata_is_kept) {
  const auto source = open_checkpoint(source_path());
  const RequantizeReport report = requantize(*source, out_path(), quant_mix("q4_K_M"), {});
  const auto out = open_checkpoint(out_path());
  EXPECT_EQ(out->tensor_names(), source->tensor_names());
  for (const auto& [key, value] : source->gguf()->metadata())
    EXPECT_TRUE(key == "general.file_type" || out->gguf()->metadata().at(key) == value) << key;
  EXPECT_EQ(out->gguf()->get_int("general.file_type"), 15);
  EXPECT_TRUE(report.has_tokenizer);
  EXPECT_FALSE(report.was_quantised);
  EXPECT_EQ(report.tensors.at(DType::kF32), 5u);

  for (const std::string& name : source->tensor_names()) {
    const TensorView from = source->require(name), to = out->require(name);
    ASSERT_EQ(from.shape, to.shape) << name;
    const std::vector<float> values = values_of(from);
    std::vector<uint8_t> want(to.bytes());
    kernels::quantize(to.dtype, values.data(), want.data(), values.size());
    EXPECT_EQ(std::memcmp(want.data(), to.data, want.size()), 0) << name;
  }
}

TEST_F(Requantize, same_type_copies_and_double_quantising_is_reported) {
  requantize(*open_checkpoint(source_path()), out_path(), quant_mix("q4_0"), {});
  const auto once = open_checkpoint(out_path());
  const auto again_path = folder_ / "again.gguf";
  EXPECT_TRUE(requantize(*once, again_path, quant_mix("q4_0"), {}).was_quantised);
  const auto twice = open_checkpoint(again_path);
  for (const std::string& name : once->tensor_names()) {
    const TensorView a = once->require(name), b = twice->require(name);
    ASSERT_EQ(a.dtype, b.dtype) << name;
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << name;
  }
}

TEST_F(Requantize, cores_do_not_change_the_bytes) {
  ThreadPool pool(3);
  const auto source = open_checkpoint(source_path());
  requantize(*source, out_path(), quant_mix("q3_K_M"), {});
  const std::string alone = read_file(out_path());
  requantize(*source, out_path(), quant_mix("q3_K_M"), pool.cores());
  EXPECT_TRUE(read_file(out_path()) == alone);
}

TEST_F(Requantize, llama_from_hugging_face_is_permuted_for_interleaved_rope) {
  const auto source = open_checkpoint(kFolders / "llama");
  const RequantizeReport report = requantize(*source, out_path(), quant_mix("f32"), {});
  EXPECT_FALSE(report.has_tokenizer);
  const auto out = open_checkpoint(out_path());
  EXPECT_TRUE(out->rope_interleaved());
  for (const auto& [key, value] : source->hyperparameters()) {
    const auto* number = std::get_if<double>(&value);
    const Hyperparameter want =
        number == nullptr ? value : Hyperparameter(double{static_cast<float>(*number)});
    EXPECT_EQ(out->hyperparameters().at(key), want) << key;
  }
  constexpr size_t kHeadDim = 8, kColumns = 32;
  for (const char* name : {"blk.0.attn_q.weight", "blk.1.attn_k.weight"}) {
    const std::vector<float> from = values_of(source->require(name)),
                             to = values_of(out->require(name));
    for (size_t head = 0; head < from.size() / kColumns / kHeadDim; ++head)
      for (size_t pair = 0; pair < kHeadDim / 2; ++pair)
        for (size_t half = 0; half < 2; ++half)
          for (size_t c = 0; c < kColumns; ++c)
            ASSERT_EQ(to[(head * kHeadDim + 2 * pair + half) * kColumns + c],
                      from[(head * kHeadDim + half * kHeadDim / 2 + pair) * kColumns + c])
                << name << " head " << head << " pair " << pair;
  }
  for (const char* name : {"blk.0.attn_v.weight", "token_embd.weight", "rope_freqs.weight"})
    EXPECT_EQ(values_of(out->require(name)), values_of(source->require(name))) << name;
}

TEST_F(Requantize, qwen_from_hugging_face_keeps_its_order) {
  const auto source = open_checkpoint(kFolders / "qwen2");
  requantize(*source, out_path(), quant_mix("bf16"), {});
  const auto out = open_checkpoint(out_path());
  for (const char* name : {"blk.0.attn_q.weight", "blk.1.attn_q.bias"})
    EXPECT_EQ(values_of(out->require(name)), values_of(source->require(name))) << name;
  EXPECT_EQ(out->chat_template(), "yes");
}

TEST_F(Requantize, a_full_disk_leaves_nothing) {
  const auto source = open_checkpoint(source_path());
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { 256 * 1024, before.rlim_max };
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    requantize(*source, out_path(), quant_mix("q8_0"), {});
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("cannot write after"), std::string::npos) << message;
  EXPECT_EQ(files_in_folder(), 1u) << "the source alone";
}

TEST_F(Requantize, stopping_half_way_leaves_nothing) {
  std::atomic<bool> stop = false;
  const auto source = open_checkpoint(source_path());
  size_t reports = 0;
  const ProgressFn progress = [&](size_t done, size_t total) {
    EXPECT_LE(done, total);
    if (++reports == 3) stop = true;
  };
  try {
    requantize(*source, out_path(), quant_mix("q8_0"), {}, StopToken(&stop), progress);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCancelled);
  }
  EXPECT_EQ(reports, 3u);
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Requantize, values_without_a_code_name_their_tensor) {
  {
    GgufWriter writer(source_path());
    writer.set_string("general.architecture", "llama");
    writer.set_u32("llama.block_count", 1);
    writer.declare("blk.0.ffn_up.weight", DType::kF32, {1, 32});
    std::vector<float> values(32, 1.0f);
    values[9] = std::numeric_limits<float>::quiet_NaN();
    writer.write(values.data(), 128);
    writer.commit();
  }
  try {
    requantize(*open_checkpoint(source_path()), out_path(), quant_mix("q8_0"), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
    const std::string what = error.what();
    EXPECT_NE(what.find("source.gguf: tensor 'blk.0.ffn_up.weight': "), std::string::npos) << what;
    EXPECT_NE(what.find("not finite"), std::string::npos) << what;
  }
  EXPECT_EQ(files_in_folder(), 1u);
}

}  // namespace
}  // namespace weft::formats
