// What transformers makes of the folders that the trainer writes (tests/data/trained): the same
// logits and tokens as the engine. And what is written today is still what transformers was given.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "formats/tokenizer.h"
#include "text/model_runner.h"
#include "train/export.h"
#include "train/weights.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;

class TrainedFolder : public ::testing::TestWithParam<const char*> {
 protected:
  fs::path folder() const { return fs::path(WEFT_SOURCE_DIR "/tests/data/trained") / GetParam(); }
};

// As tests/parity_test.cc: f32 sums in another order, and keys and values whose rounding to f16 may
// tip the other way. These weights are smaller than those there, and so are the logits.
constexpr double kTolerance = 1e-3;

TEST_P(TrainedFolder, transformers_computes_the_same_logits) {
  // The same values in f32: bf16 weights would meet bf16 activations in the engine.
  const auto checkpoint = formats::open_checkpoint(folder());
  const train::ModelShape shape = train::shape_of(*checkpoint);
  const train::ParameterTable table = train::parameters_of(shape);
  const train::Weights weights = train::read_weights(*checkpoint, shape, table);
  const fs::path wide = fs::path(::testing::TempDir()) /
                        ("weft_trained_f32_" + std::string(GetParam()) + std::to_string(getpid()));
  train::write_hf_folder(wide, shape, table, weights.values, weights.router_bias,
                         {.is_bf16 = false, .tokenizer = ""});
  text::ModelRunner runner(wide);
  for (const text::ReferenceSequence& sequence :
       text::read_reference(folder() / "logits.bin", [](auto&, auto&) {})) {
    const auto got = runner.run(sequence.tokens, SIZE_MAX / 2);
    ASSERT_EQ(got.size(), sequence.logits.size());
    double largest = 0, off = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(double{sequence.logits[i]}));
      off = std::max(off, std::abs(double{got[i]} - sequence.logits[i]));
    }
    EXPECT_GT(largest, 1) << "these were trained: some token is likely";
    EXPECT_LE(off, kTolerance);
  }
  fs::remove_all(wide);
}

TEST_P(TrainedFolder, transformers_tokenises_alike) {
  const auto expected = nlohmann::json::parse(read_file(folder() / "tokens.json"));
  const auto tokenizer = formats::load_tokenizer(folder());
  const auto text = expected["text"].get<std::string>();
  const auto ids = tokenizer->encode(text, {.add_special = false});
  EXPECT_EQ(ids, expected["ids"].get<std::vector<formats::Token>>());
  EXPECT_EQ(tokenizer->decode(ids), text);
}

// If this fails because the folder is written in another way on purpose, make.py shows whether
// transformers takes it.
TEST_P(TrainedFolder, is_written_as_transformers_was_given_it) {
  const auto checkpoint = formats::open_checkpoint(folder());
  const train::ModelShape shape = train::shape_of(*checkpoint);
  const train::ParameterTable table = train::parameters_of(shape);
  const train::Weights weights = train::read_weights(*checkpoint, shape, table);
  const fs::path out = fs::path(::testing::TempDir()) /
                       ("weft_trained_" + std::string(GetParam()) + std::to_string(getpid()));
  train::write_hf_folder(out, shape, table, weights.values, weights.router_bias,
                         {.tokenizer = folder().string()});
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(out)) {
    const fs::path name = entry.path().filename();
    EXPECT_EQ(read_file(entry.path()), read_file(folder() / name)) << name;
    ++files;
  }
  EXPECT_EQ(files, 5U);
  fs::remove_all(out);
}

INSTANTIATE_TEST_SUITE_P(trained, TrainedFolder, ::testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace weft::tests
