// The Llama family against transformers: logits of tiny random models (tests/data/parity),
// prefilled whole, in chunks, token by token and in ragged batches.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "formats/requantize.h"
#include "text/model_runner.h"

namespace weft::tests {
namespace {

using models::LogitsWanted;
using models::SequenceInput;
using models::Token;

const std::filesystem::path kData = WEFT_SOURCE_DIR "/tests/data/parity";

using Expected = text::ReferenceSequence;
using Runner = text::ModelRunner;

double largest_difference(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double largest = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    largest = std::max(largest, std::abs(double{got[i]} - want[i]));
  }
  return largest;
}

class Parity : public ::testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path folder() const { return kData / GetParam(); }
  std::vector<Expected> expected() const {
    return text::read_reference(folder() / "logits.bin", [](auto&, auto&) {});
  }
};

// Both sides compute in f32, whose sums differ by some 100 * 2^-24 = 6e-6 in logits of up to 6.
// Keys and values are f16 on both sides, and where that difference tips a rounding the other way, a
// value of up to 4 moves by a step, 2^-8. Wo (standard deviation 0.15) spreads it over the 64
// features of the residual stream, 6e-4 each, and the head (0.15) sums those: 6e-4 * 0.15 *
// sqrt(64) = 7e-4.
constexpr double kTolerance = 1e-3;

TEST_P(Parity, prefill_equals_transformers) {
  Runner runner(folder());
  for (const Expected& sequence : expected())
    EXPECT_LE(largest_difference(runner.run(sequence.tokens, SIZE_MAX / 2), sequence.logits),
              kTolerance);
}

TEST_P(Parity, chunks_and_single_tokens_give_the_same_bits) {
  Runner runner(folder());
  for (const Expected& sequence : expected()) {
    const auto whole = runner.run(sequence.tokens, SIZE_MAX / 2);
    for (const size_t chunk : {size_t{1}, size_t{3}, size_t{16}, size_t{32}, size_t{33}})
      EXPECT_EQ(runner.run(sequence.tokens, chunk), whole) << "chunks of " << chunk;
  }
}

TEST_P(Parity, ragged_batches_give_the_same_bits_on_any_number_of_cores) {
  const auto sequences = expected();
  Runner alone(folder());
  std::vector<std::vector<float>> want;
  for (const Expected& sequence : sequences) want.push_back(alone.run(sequence.tokens, 64));
  const size_t vocab = alone.model->config().vocab_size;
  for (const size_t threads : {1, 2, 3}) {
    Runner runner(folder(), threads);
    const size_t a = runner.cache.create(), b = runner.cache.create();
    const std::span<const Token> first = sequences[0].tokens, second = sequences[1].tokens;
    // A chunk of one prompt beside the whole other one, then a chunk beside single tokens.
    std::vector<float> got_a, got_b;
    const auto pass = [&](size_t a_begin, size_t a_count, size_t b_begin, size_t b_count) {
      const auto out = runner.pass(
          {{a, first.subspan(a_begin, a_count)}, {b, second.subspan(b_begin, b_count)}});
      const auto middle = out.begin() + static_cast<ptrdiff_t>(a_count * vocab);
      got_a.insert(got_a.end(), out.begin(), middle);
      got_b.insert(got_b.end(), middle, out.end());
    };
    pass(0, 20, 0, 14);
    pass(20, 1, 14, 1);
    pass(21, 18, 15, 1);
    pass(39, 1, 16, 1);
    EXPECT_EQ(got_a, want[0]) << threads << " threads";
    EXPECT_EQ(got_b, want[1]) << threads << " threads";
  }
}

TEST_P(Parity, last_row_alone_equals_all_rows) {
  Runner runner(folder());
  const Expected sequence = expected()[0];
  const auto all = runner.run(sequence.tokens, 64);
  const size_t vocab = runner.model->config().vocab_size;
  const size_t id = runner.cache.create();
  ASSERT_TRUE(runner.cache.reserve(id, sequence.tokens.size()));
  std::vector<float> last(vocab);
  const SequenceInput batch[] = {{id, sequence.tokens, 0, LogitsWanted::kLast}};
  runner.model->forward(batch, runner.cache, last.data(), *runner.workspace, runner.pool.cores());
  EXPECT_EQ(last, std::vector<float>(all.end() - static_cast<ptrdiff_t>(vocab), all.end()));
}

// A GGUF file made of the folder: other names, and Llama's q and k in the order of interleaved
// RoPE.
TEST_P(Parity, the_same_model_as_gguf) {
  const auto path =
      std::filesystem::path(::testing::TempDir()) / (std::string("parity_") + GetParam() + ".gguf");
  formats::requantize(*formats::open_checkpoint(folder()), path, formats::quant_mix("f16"),
                      CoreSet());
  {
    Runner runner(path);
    for (const Expected& sequence : expected())
      EXPECT_LE(largest_difference(runner.run(sequence.tokens, 64), sequence.logits), kTolerance);
  }
  std::filesystem::remove(path);
}

TEST_P(Parity, memory_plan_is_what_loading_takes) {
  Runner runner(folder());
  const auto checkpoint = formats::open_checkpoint(folder());
  const models::MemoryPlan plan = models::plan_memory(*checkpoint, kernels::KvFormat::kF16, 16);
  // The plan counts norms and biases too, a few thousand values.
  EXPECT_GE(plan.weight_bytes, runner.model->weight_bytes());
  EXPECT_LE(plan.weight_bytes, runner.model->weight_bytes() + 8192);
  EXPECT_EQ(plan.kv_bytes_per_token * runner.cache.capacity_tokens(), runner.cache.bytes());
}

INSTANTIATE_TEST_SUITE_P(parity, Parity,
                         ::testing::Values("llama3_tied", "llama_linear", "llama_yarn", "mistral",
                                           "qwen2", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace weft::tests
