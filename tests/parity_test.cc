// The Llama family against transformers: logits of tiny random models (tests/data/parity),
// prefilled whole, in chunks, token by token and in ragged batches.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "formats/checkpoint.h"
#include "formats/requantize.h"
#include "models/language_model.h"
#include "text/kv_cache.h"

namespace weft::tests {
namespace {

using models::LogitsWanted;
using models::SequenceInput;
using models::Token;

const std::filesystem::path kData = WEFT_SOURCE_DIR "/tests/data/parity";

struct Expected {
  std::vector<Token> tokens;
  std::vector<float> logits;  // (tokens, vocab_size)
};

struct Reader {
  std::string bytes;
  size_t at = 0;
  template <typename T>
  std::vector<T> take(size_t count) {
    std::vector<T> values(count);
    EXPECT_LE(at + count * sizeof(T), bytes.size());
    std::memcpy(values.data(), bytes.data() + at, count * sizeof(T));
    at += count * sizeof(T);
    return values;
  }
};

std::vector<Expected> read_expected(const std::filesystem::path& path) {
  Reader reader{read_file(path)};
  const auto counts = reader.take<int32_t>(2);
  std::vector<Expected> sequences;
  for (int32_t i = 0; i < counts[0]; ++i) {
    const auto length = static_cast<size_t>(reader.take<int32_t>(1)[0]);
    Expected& sequence = sequences.emplace_back();
    sequence.tokens = reader.take<Token>(length);
    sequence.logits = reader.take<float>(length * static_cast<size_t>(counts[1]));
  }
  return sequences;
}

// A model with a cache, and passes over it that ask for every logit.
struct Runner {
  ThreadPool pool;
  std::unique_ptr<models::LanguageModel> model;
  text::KvCache cache;
  std::unique_ptr<models::Workspace> workspace;

  explicit Runner(const std::filesystem::path& path, size_t threads = 1)
      : pool(threads),
        model(models::load_language_model(formats::open_checkpoint(path), pool.cores())),
        cache({.num_layers = model->config().num_layers,
               .shape = model->kv_shape(),
               .capacity_tokens = 512}),
        workspace(model->make_workspace()) {}

  struct Piece {
    size_t sequence;
    std::span<const Token> tokens;
  };
  std::vector<float> pass(const std::vector<Piece>& pieces) {
    std::vector<SequenceInput> batch;
    size_t rows = 0;
    for (const Piece& piece : pieces) {
      EXPECT_TRUE(cache.reserve(piece.sequence, piece.tokens.size()));
      batch.push_back(
          {piece.sequence, piece.tokens, cache.length(piece.sequence), LogitsWanted::kAll});
      rows += piece.tokens.size();
    }
    std::vector<float> logits(rows * model->config().vocab_size);
    model->forward(batch, cache, logits.data(), *workspace, pool.cores());
    return logits;
  }
  // One sequence in pieces of `chunk` tokens.
  std::vector<float> run(std::span<const Token> tokens, size_t chunk) {
    const size_t sequence = cache.create();
    std::vector<float> all;
    for (size_t at = 0; at < tokens.size(); at += chunk) {
      const auto part = pass({{sequence, tokens.subspan(at, std::min(chunk, tokens.size() - at))}});
      all.insert(all.end(), part.begin(), part.end());
    }
    cache.release(sequence);
    return all;
  }
};

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
  std::vector<Expected> expected() const { return read_expected(folder() / "logits.bin"); }
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
