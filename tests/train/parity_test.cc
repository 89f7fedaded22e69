// The trainer's forward pass against the engine's on the same weights: tiny models of every
// architecture (tests/data/parity, tests/data/megrez2), and what the trainer writes of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "formats/checkpoint.h"
#include "models/language_model.h"
#include "models/teams.h"
#include "text/kv_cache.h"
#include "train/export.h"
#include "train/weights.h"
#include "trainer/model.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using models::Token;

const fs::path kData = WEFT_SOURCE_DIR "/tests/data";

struct ScratchFolder {
  fs::path path =
      fs::path(::testing::TempDir()) / ("weft_train_parity_" + std::to_string(getpid()));
  ScratchFolder() { fs::create_directories(path); }
  ~ScratchFolder() { fs::remove_all(path); }
};

// The engine keeps keys and values in 16 bit; here attention takes them as they are, in f64, so
// that what is compared is the model.
struct ExactAttention final : models::SpreadAttention {
  void attend(const kernels::AttentionShape& shape, size_t, const float* q, const float* k,
              const float* v, float* out, const CoreSet&) override {
    const size_t h = shape.num_heads, g = shape.kv.num_kv_heads, d = shape.kv.head_dim;
    for (size_t t = 0; t < num_tokens; ++t)
      for (size_t head = 0; head < h; ++head) {
        const size_t kv = head / (h / g);
        const size_t first = shape.window == 0 || t < shape.window ? 0 : t + 1 - shape.window;
        std::vector<double> weights, sum(d);
        double largest = -INFINITY, total = 0;
        for (size_t s = first; s <= t; ++s) {
          double score = 0;
          for (size_t i = 0; i < d; ++i)
            score += double{q[(t * h + head) * d + i]} * k[(s * g + kv) * d + i];
          weights.push_back(score * shape.scale);
          largest = std::max(largest, weights.back());
        }
        for (double& weight : weights) total += weight = std::exp(weight - largest);
        for (size_t s = first; s <= t; ++s)
          for (size_t i = 0; i < d; ++i)
            sum[i] += weights[s - first] / total * v[(s * g + kv) * d + i];
        for (size_t i = 0; i < d; ++i) out[(t * h + head) * d + i] = static_cast<float>(sum[i]);
      }
  }
  size_t num_tokens = 0;
};

std::vector<float> engine_logits(const fs::path& path, const std::vector<Token>& tokens) {
  const auto model = models::load_language_model(formats::open_checkpoint(path), CoreSet());
  text::KvCache cache({.num_layers = model->config().num_layers,
                       .shape = model->kv_shape(),
                       .capacity_tokens = 512});
  const size_t sequence = cache.create();
  EXPECT_TRUE(cache.reserve(sequence, tokens.size()));
  const auto workspace = model->make_workspace();
  ExactAttention attention;
  attention.num_tokens = tokens.size();
  workspace->spread = &attention;
  const models::SequenceInput batch[] = {{sequence, tokens, 0, models::LogitsWanted::kAll}};
  std::vector<float> logits(tokens.size() * model->config().vocab_size);
  model->forward(batch, cache, logits.data(), *workspace, CoreSet());
  return logits;
}

std::vector<Token> random_tokens(size_t count, size_t vocab_size, uint64_t seed) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<Token>(uniform(seed, i, 0) * static_cast<double>(vocab_size)));
  return tokens;
}

train::Example example_of(const std::vector<Token>& tokens) {
  train::Example example;
  example.tokens.assign(tokens.begin(), tokens.end());
  example.tokens.push_back(0);  // foretold, never read
  example.learn.assign(example.tokens.size(), 1);
  return example;
}

// A folder whose config.json differs in some keys.
fs::path variant(const fs::path& source, const fs::path& scratch, const std::string& name,
                 const nlohmann::json& changes) {
  const fs::path folder = scratch / name;
  fs::create_directories(folder);
  fs::copy_file(source / "model.safetensors", folder / "model.safetensors");
  auto config = nlohmann::ordered_json::parse(read_file(source / "config.json"));
  config.update(changes);
  AtomicFile file(folder / "config.json");
  file.write(config.dump());
  file.commit();
  return folder;
}

// Both sides compute in f32 with sums in another order: differences of some 100 * 2^-24 = 6e-6 on
// logits of up to 6 and, through norms and two layers or more, a few times that. Where experts are
// chosen the same holds, unless two scores are nearer to each other than that.
constexpr double kTolerance = 5e-5;

void expect_parity(const fs::path& source, const fs::path& scratch) {
  const auto checkpoint = formats::open_checkpoint(source);
  const train::ModelShape shape = train::shape_of(*checkpoint);
  const train::ParameterTable table = train::parameters_of(shape);
  const train::Weights weights = train::read_weights(*checkpoint, shape, table);
  trainer::Model model(shape, weights, at::kCPU, at::kFloat);

  const size_t lengths[] = {1, 7, 8, 9, 40};
  std::vector<std::vector<Token>> sequences;
  std::vector<train::Example> examples;
  for (const size_t length : lengths) {
    sequences.push_back(random_tokens(length, shape.vocab_size, length));
    examples.push_back(example_of(sequences.back()));
  }
  const train::Batch batch = train::make_batch(examples, 3);
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(model.to_device(batch)).contiguous();

  // What is written must be the same model, as a folder and as GGUF.
  const fs::path folder = scratch / "written", gguf = scratch / "written.gguf";
  train::write_hf_folder(folder, shape, table, weights.values, weights.router_bias,
                         {.is_bf16 = false, .tokenizer = "", .from = checkpoint.get()});
  train::write_gguf(folder, gguf, "f32", CoreSet());
  for (const fs::path& written : {source, folder, gguf}) {
    for (const auto& tokens : sequences) {
      // The sequence's rows: batches sort by length.
      size_t row = 0;
      while (
          batch.tokens[row] != tokens[0] || batch.positions[row] != 0 ||
          !std::equal(tokens.begin(), tokens.end(), batch.tokens.begin() + static_cast<long>(row)))
        ++row;
      const std::vector<float> want = engine_logits(written, tokens);
      const float* const got = logits.data_ptr<float>() + row * shape.vocab_size;
      double largest = 0;
      for (size_t i = 0; i < want.size(); ++i)
        largest = std::max(largest, std::abs(double{got[i]} - want[i]));
      EXPECT_LE(largest, kTolerance) << written << ", " << tokens.size() << " tokens";
    }
  }
  fs::remove_all(folder);
}

class TrainerParity : public ::testing::TestWithParam<const char*> {};

TEST_P(TrainerParity, forward_equals_the_engines) {
  const ScratchFolder scratch;
  expect_parity(kData / GetParam(), scratch.path);
}

INSTANTIATE_TEST_SUITE_P(trainer, TrainerParity,
                         ::testing::Values("parity/llama3_tied", "parity/llama_yarn",
                                           "parity/mistral", "parity/qwen2", "parity/qwen3",
                                           "megrez2/shared_1", "megrez2/shared_3"),
                         [](const auto& info) {
                           const std::string name = info.param;
                           return name.substr(name.find('/') + 1);
                         });

TEST(trainer_parity, biases_of_the_attentions_output_are_refused) {
  const auto checkpoint = formats::open_checkpoint(kData / "parity/llama_linear");
  try {
    train::shape_of(*checkpoint);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  }
}

TEST(trainer_parity, gates_that_read_their_own_layer) {
  const ScratchFolder scratch;
  const fs::path folder =
      variant(kData / "megrez2/shared_3", scratch.path, "off", {{"pre_gate", false}});
  expect_parity(folder, scratch.path);
}

// From scratch the way a config asks for it, through the files and back.
TEST(trainer_parity, models_from_scratch) {
  const ScratchFolder scratch;
  for (const char* architecture : {"llama", "qwen2", "qwen3", "megrez2"}) {
    train::Config config;
    config.context = 64;
    config.model.architecture = architecture;
    config.model.hidden_size = 64;
    config.model.num_hidden_layers = 4;
    config.model.num_attention_heads = 4;
    config.model.num_key_value_heads = 2;
    config.model.intermediate_size = 96;
    config.model.n_routed_experts = 6;
    config.model.num_experts_per_tok = 2;
    config.model.moe_intermediate_size = 32;
    config.model.tie_word_embeddings = std::string(architecture) != "qwen3";
    const train::ModelShape shape = train::shape_of(config, 96);
    const train::ParameterTable table = train::parameters_of(shape);
    const train::Weights weights = train::random_weights(shape, table, 5);
    const fs::path folder = scratch.path / architecture;
    train::write_hf_folder(folder, shape, table, weights.values, weights.router_bias,
                           {.is_bf16 = false, .tokenizer = ""});
    const auto checkpoint = formats::open_checkpoint(folder);
    const train::ModelShape again = train::shape_of(*checkpoint);
    EXPECT_EQ(train::read_weights(*checkpoint, again, train::parameters_of(again)).values,
              weights.values);
    expect_parity(folder, scratch.path);
  }
}

}  // namespace
}  // namespace weft::tests
