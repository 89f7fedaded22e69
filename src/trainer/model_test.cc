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

// Counts by hand: four tokens in two sequences, a group of two layers.
TEST(routing, counts_loads_and_what_is_chosen_again) {
  train::ModelShape shape = small("megrez2");
  shape.num_layers = 3;  // one dense
  shape.layers_per_group = 2;
  shape.num_experts = 4;
  RoutingCounts counts(shape, at::kCPU);
  const auto chosen = [](std::vector<std::vector<int64_t>> ids) {
    const Tensor out = at::zeros({static_cast<int64_t>(ids.size()), 4});
    for (size_t row = 0; row < ids.size(); ++row)
      for (const int64_t id : ids[row]) out[static_cast<int64_t>(row)][id] = 1;
    return out;
  };
  // Rows: a b | c - d, where - fills up nothing that counts and d stands alone.
  const Tensor follows = at::tensor({0.0f, 1.0f, 0.0f, 0.0f, 0.0f});
  counts.add(0, chosen({{0, 1}, {0, 2}, {1, 3}, {}, {0, 1}}), follows);
  counts.add(1, chosen({{0, 1}, {0, 1}, {0, 2}, {}, {1, 2}}), follows);
  const auto layers = counts.layers();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].layer, 1u);
  EXPECT_EQ(layers[0].fullest, 1.5);  // 3, 3, 1, 1 of 8
  EXPECT_EQ(layers[0].emptiest, 0.5);
  EXPECT_FALSE(layers[0].as_layer_before);
  EXPECT_EQ(layers[0].as_token_before, 0.5);
  EXPECT_EQ(layers[1].fullest, 1.5);  // 3, 3, 2, 0
  EXPECT_EQ(layers[1].emptiest, 0);
  EXPECT_EQ(layers[1].as_layer_before.value(), 0.5);  // 2 + 1 + 0 + 1
  EXPECT_EQ(layers[1].as_token_before, 1);
}

// The balance loss against a loop over its definition; its gradient against differences.
TEST(routing, balance_of_sequences) {
  const int64_t rows = 9, n = 5, k = 2;
  const Tensor sequence = at::tensor(std::vector<int64_t>{0, 0, 0, 0, 1, 1, 1, 2, 2});
  const Tensor is_token = at::tensor({1.f, 1.f, 1.f, 0.f, 1.f, 1.f, 1.f, 0.f, 0.f});
  const auto scores_at = [&](double shift) {
    std::vector<double> values;
    for (uint32_t i = 0; i < rows * n; ++i) values.push_back(0.1 + uniform(5, 0, i));
    values[7] += shift;
    return at::tensor(values, at::kDouble).view({rows, n});
  };
  const Tensor ids = std::get<1>(scores_at(0).topk(k, 1));
  const Tensor chosen =
      at::zeros({rows, n}).scatter_(1, ids, is_token.unsqueeze(1).expand({rows, k}));
  const auto loop = [&](double shift) {
    const Tensor scores = scores_at(shift);
    double total = 0;
    for (const auto& [begin, end] : {std::pair{0, 3}, std::pair{4, 7}})
      for (int64_t e = 0; e < n; ++e) {
        double part = 0, share = 0;
        for (int64_t t = begin; t < end; ++t) {
          part += chosen[t][e].item<double>() * n / k / (end - begin);
          share += (scores[t][e] / scores[t].sum()).item<double>() / (end - begin);
        }
        total += part * share;
      }
    return total / 2;  // the third sequence holds no token
  };
  Tensor scores = scores_at(0).requires_grad_(true);
  const Tensor loss = sequence_balance(scores, chosen, is_token, sequence, 3, k);
  EXPECT_NEAR(loss.item<double>(), loop(0), 1e-12);
  torch::autograd::backward({loss}, {});
  const double slope = (loop(1e-6) - loop(-1e-6)) / 2e-6;
  ASSERT_GT(std::abs(slope), 1e-3);
  EXPECT_NEAR(scores.grad().view(-1)[7].item<double>(), slope, 1e-8);
}

// Even scores and choices: 1 for each of three layers of experts.
TEST(routing, a_model_s_balance_reaches_its_routers) {
  const train::ModelShape shape = small("megrez2");
  const train::Weights weights = train::random_weights(shape, train::parameters_of(shape), 5);
  Model model(shape, weights, at::kCPU, at::kFloat);
  Tensor balance;
  const Inputs inputs = model.to_device(train::make_batch(examples(), 3));
  const Tensor loss = model.loss(inputs, 1, &balance);
  EXPECT_EQ(loss.item<double>(), model.loss(inputs, 1).item<double>());
  EXPECT_NEAR(balance.item<double>(), 3, 0.2);
  torch::autograd::backward({balance}, {});
  Tensor gradient = at::zeros_like(model.master());
  model.collect_gradients(gradient);
  const train::Parameter& router = model.table().at("model.layers.1.mlp.gate.weight");
  EXPECT_GT(
      gradient.narrow(0, static_cast<int64_t>(router.offset), 6 * 64).abs().sum().item<double>(),
      0);
}

}  // namespace
}  // namespace weft::trainer
