#include "trainer/model.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "base/random.h"
#include "train/batch.h"
#include "train/weights.h"

namespace weft::trainer {
namespace {

constexpr size_t kVocab = 96;

train::ModelShape small(const std::string& architecture) {
  train::Config config;
  config.context = 64;
  config.model.architecture = architecture;
  config.model.hidden_size = 64;
  config.model.num_hidden_layers = architecture == "megrez2" ? 4 : 2;
  config.model.num_attention_heads = 4;
  config.model.num_key_value_heads = 2;
  config.model.intermediate_size = 96;
  config.model.n_routed_experts = architecture == "megrez2" ? 6 : 0;
  config.model.num_experts_per_tok = 2;
  config.model.moe_intermediate_size = 32;
  config.model.tie_word_embeddings = architecture != "qwen3";
  return train::shape_of(config, kVocab);
}

// Lengths around and between multiples of train::kRowMultiple, some tokens without a target.
std::vector<train::Example> examples() {
  std::vector<train::Example> out;
  for (const size_t length : {2, 3, 8, 9, 10, 17, 25, 33, 60}) {
    train::Example& example = out.emplace_back();
    for (size_t i = 0; i < length; ++i) {
      example.tokens.push_back(
          static_cast<int32_t>(uniform(3, length, static_cast<uint32_t>(i)) * kVocab));
      example.learn.push_back(i % 4 == 2 ? 0 : 1);
    }
  }
  return out;
}

struct Result {
  double loss = 0;
  Tensor gradient;  // of all parameters
  Tensor loads;     // of experts
};

Result result_of(Model& model, const std::vector<train::Batch>& batches, int64_t num_targets) {
  Result result{.loss = 0, .gradient = at::zeros_like(model.master()), .loads = {}};
  for (const train::Batch& batch : batches) {
    const Tensor loss = model.loss(model.to_device(batch), 1 / static_cast<double>(num_targets));
    torch::autograd::backward({loss}, {});
    model.collect_gradients(result.gradient);
    result.loss += loss.item<double>();
  }
  result.loads = model.take_loads();
  return result;
}

// Sequences laid end to end, filled up and put into buckets are what each of them is by itself: no
// example sees another one, and what fills up counts for nothing.
TEST(model, packed_examples_have_the_loss_and_gradients_of_each_alone) {
  const auto some = examples();
  std::vector<train::Batch> alone;
  int64_t num_targets = 0;
  for (const train::Example& example : some) {
    alone.push_back(train::make_batch({&example, 1}, 1));
    num_targets += static_cast<int64_t>(alone.back().targets.size());
  }
  // Gradients sum over 160 rows in another order. f64, f32: 160 * 2^-53, 160 * 2^-24 of the sum of
  // absolute values, which is some ten times the sum, through six products one after the other.
  // bf16: besides, each example's gradient of each matrix is rounded by itself, 2^-9 of it, and so
  // is what flows between some thirty operations wherever f32 sums differ: as a random walk,
  // sqrt(30) * 2^-9 = 2^-6.5, doubled.
  const struct {
    at::ScalarType type;
    double tolerance;
  } kTypes[] = {{at::kDouble, 1e-12}, {at::kFloat, 6e-4}, {at::kBFloat16, 0x1p-5}};
  for (const char* architecture : {"llama", "qwen2", "qwen3", "megrez2"})
    for (const auto& [type, tolerance] : kTypes) {
      // Where experts are chosen, rounding may choose another one.
      if (type == at::kBFloat16 && architecture == std::string("megrez2")) continue;
      const train::ModelShape shape = small(architecture);
      const train::Weights weights = train::random_weights(shape, train::parameters_of(shape), 5);
      Model model(shape, weights, at::kCPU, type);
      const Result want = result_of(model, alone, num_targets);
      const double norm = want.gradient.norm().item<double>();
      ASSERT_GT(norm, 0.1) << architecture;
      EXPECT_NEAR(want.loss, std::log(kVocab), 0.5) << architecture;
      for (const size_t buckets : {1, 3, 8}) {
        const Result got = result_of(model, {train::make_batch(some, buckets)}, num_targets);
        EXPECT_NEAR(got.loss, want.loss, tolerance * want.loss)
            << architecture << ", " << toString(type) << ", " << buckets << " buckets";
        EXPECT_LE((got.gradient - want.gradient).norm().item<double>(), tolerance * norm)
            << architecture << ", " << toString(type) << ", " << buckets << " buckets";
        EXPECT_TRUE(got.loads.equal(want.loads)) << architecture;
      }
    }
}

}  // namespace
}  // namespace weft::trainer
