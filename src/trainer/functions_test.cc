// Gradients against finite differences, and values against loops, in f64.
#include "trainer/functions.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <functional>

#include "base/random.h"
#include "trainer/cpu_attention.h"

namespace weft::trainer {
namespace {

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

Tensor random(std::vector<int64_t> shape, uint64_t seed) {
  const Tensor out = at::empty(shape, at::kDouble);
  double* const values = out.data_ptr<double>();
  for (int64_t i = 0; i < out.numel(); ++i)
    values[i] = 2 * uniform(seed, static_cast<uint64_t>(i), 0) - 1;
  return out;
}

// d f / d x for every value of every input, where f is a random projection of the function's
// output. Central differences with h = 1e-5 err by h^2 f''' / 6 + 2^-52 f / h: some 1e-10 for
// values near 1; functions here are smooth with derivatives below 100.
void expect_gradients(const Function& function, const std::vector<Tensor>& values) {
  std::vector<Tensor> inputs;
  for (const Tensor& value : values) inputs.push_back(value.clone().requires_grad_(true));
  const Tensor out = function(inputs);
  const Tensor weights = random(out.sizes().vec(), 99);
  const auto gradients = torch::autograd::grad({(out * weights).sum()}, inputs);
  const at::NoGradGuard no_grad;
  constexpr double h = 1e-5;
  for (size_t i = 0; i < values.size(); ++i) {
    Tensor changed = values[i].clone();
    std::vector<Tensor> arguments = values;
    arguments[i] = changed;
    double* const x = changed.data_ptr<double>();
    const Tensor g = gradients[i].contiguous();
    for (int64_t j = 0; j < changed.numel(); ++j) {
      const double before = x[j];
      const auto at = [&](double value) {
        x[j] = value;
        std::vector<Tensor> copies;  // functions may work in place
        for (const Tensor& argument : arguments) copies.push_back(argument.clone());
        return (function(copies) * weights).sum().item<double>();
      };
      const double slope = (at(before + h) - at(before - h)) / (2 * h);
      x[j] = before;
      ASSERT_NEAR(g.data_ptr<double>()[j], slope, 1e-6 * std::max(1.0, std::abs(slope)))
          << "input " << i << ", value " << j;
    }
  }
}

TEST(functions, rms_norm_gradients) {
  expect_gradients([](const auto& in) { return rms_norm(in[0], in[1], 1e-5, at::kDouble); },
                   {random({3, 8}, 1), random({8}, 2)});
  expect_gradients([](const auto& in) { return rms_norm(in[0], in[1], 1e-5, at::kDouble); },
                   {random({3, 2, 8}, 1), random({8}, 2)});
}

RotationAngles some_angles(int64_t rows, int64_t head_dim) {
  const Tensor half = random({rows, 1, head_dim / 2}, 5) * 3;
  return {at::cat({half.cos(), half.cos()}, 2), at::cat({-half.sin(), half.sin()}, 2)};
}

TEST(functions, rotate_turns_pairs_and_its_gradient_turns_back) {
  const RotationAngles angles = some_angles(4, 6);
  const Tensor x = random({4, 18}, 3);
  const Tensor turned = rotate(x.clone(), 2, angles).view({4, 3, 6});
  const Tensor heads = x.view({4, 3, 6});
  const auto at = [](const Tensor& t, int64_t row, int64_t head, int64_t i) {
    return t[row][head][i].item<double>();
  };
  for (int64_t row = 0; row < 4; ++row)
    for (int64_t head = 0; head < 3; ++head)
      for (int64_t i = 0; i < 3; ++i) {
        const double c = head == 2 ? 1 : angles.cos[row][0][i].item<double>();
        const double s = head == 2 ? 0 : angles.sin[row][0][i + 3].item<double>();
        const double a = at(heads, row, head, i), b = at(heads, row, head, i + 3);
        EXPECT_NEAR(at(turned, row, head, i), a * c - b * s, 1e-14);
        EXPECT_NEAR(at(turned, row, head, i + 3), b * c + a * s, 1e-14);
      }
  // The input is a computed one, since it is changed in place.
  expect_gradients([&](const auto& in) { return rotate(in[0] * 1.0, 2, angles); }, {x});
}

// Two buckets of sequences of 3 and 2, against attention of each sequence by itself.
TEST(functions, attention_stays_within_sequences) {
  const HeadCounts heads{4, 2, 6, 0};
  const std::vector<train::Bucket> buckets = {{2, 3}, {1, 2}};
  const Tensor qkv = random({8, 8 * 6}, 4);
  const Tensor all = attention(qkv, buckets, heads);
  int64_t row = 0;
  for (const int64_t length : {3, 3, 2}) {
    const Tensor x = qkv.narrow(0, row, length).view({length, 8, 6});
    for (int64_t head = 0; head < 4; ++head) {
      const Tensor q = x.select(1, head), k = x.select(1, 4 + head / 2),
                   v = x.select(1, 6 + head / 2);
      for (int64_t t = 0; t < length; ++t) {
        const Tensor scores = k.narrow(0, 0, t + 1).mv(q[t]) / std::sqrt(6.0);
        const Tensor want = v.narrow(0, 0, t + 1).t().mv(scores.softmax(0));
        const Tensor got = all[row + t].narrow(0, head * 6, 6);
        EXPECT_LT((got - want).abs().max().item<double>(), 1e-14);
      }
    }
    row += length;
  }
  expect_gradients([&](const auto& in) { return attention(in[0], buckets, heads); }, {qkv});
}

TEST(functions, attention_with_a_window_looks_no_further) {
  HeadCounts heads{1, 1, 4, 2};
  const std::vector<train::Bucket> buckets = {{1, 5}};
  Tensor qkv = random({5, 12}, 4);
  const Tensor before = attention(qkv, buckets, heads);
  qkv[1].fill_(7);  // seen by tokens 1 and 2 alone
  const Tensor after = attention(qkv, buckets, heads);
  for (int64_t t = 0; t < 5; ++t) EXPECT_EQ(at::equal(before[t], after[t]), t != 1 && t != 2) << t;
  expect_gradients([&](const auto& in) { return attention(in[0], buckets, heads); }, {qkv.div(3)});
}

TEST(functions, swiglu_gradients) {
  const Tensor x = random({3, 10}, 6);
  const Tensor gate = x.narrow(1, 0, 5), up = x.narrow(1, 5, 5);
  EXPECT_LT((swiglu(x) - gate / (1 + (-gate).exp()) * up).abs().max().item<double>(), 1e-15);
  expect_gradients([](const auto& in) { return swiglu(in[0]); }, {x});
}

TEST(functions, head_loss_is_cross_entropy) {
  const Tensor hidden = random({200, 6}, 1), weight = random({11, 6}, 2);
  const Tensor targets = (random({200}, 3).abs() * 11).to(at::kLong);
  const Tensor logits = hidden.mm(weight.t());
  const Tensor want =
      (logits.logsumexp(1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1)).sum() * 0.25;
  EXPECT_NEAR(head_loss(hidden, weight, targets, 0.25).item<double>(), want.item<double>(), 1e-11);
  const Tensor few = targets.narrow(0, 0, 5);
  expect_gradients([&](const auto& in) { return head_loss(in[0], in[1], few, 0.25); },
                   {hidden.narrow(0, 0, 5).clone(), weight});
}

// So large a vocabulary that rows are taken in several pieces.
TEST(functions, head_loss_in_pieces) {
  constexpr int64_t kVocab = 200000;
  const Tensor hidden = (random({300, 4}, 1)).to(at::kFloat).requires_grad_(true);
  const Tensor weight = random({kVocab, 4}, 2).to(at::kFloat).requires_grad_(true);
  const Tensor targets = (random({300}, 3).abs() * kVocab).to(at::kLong);
  const auto got = torch::autograd::grad({head_loss(hidden, weight, targets, 1)}, {hidden, weight});
  const Tensor logits = hidden.mm(weight.t());
  const Tensor loss =
      (logits.logsumexp(1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1)).sum();
  const auto want = torch::autograd::grad({loss}, {hidden, weight});
  for (size_t i = 0; i < 2; ++i)  // f32 sums of 300 and 200000 terms below 1: sqrt(n) * 2^-24
    EXPECT_LT((got[i] - want[i]).abs().max().item<float>(), 1e-4f);
}

// What f32 and bf16 compute in loops over rows on a CPU, against the same in f64 by tensors'
// operations. Inputs are of the narrow type already, so f32 differs by rounding of sums of up to
// 200 terms near 1, 200 * 2^-24 = 1.2e-5; bf16 also by rounding results and what is between to 8
// bits, 2^-9 of the largest value each time, of which two or three meet.
void expect_rows_agree(const Function& function, const std::vector<Tensor>& values) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const double tolerance = type == at::kFloat ? 1.2e-5 : 3.0 / 512;
    std::vector<Tensor> narrow, wide;
    for (const Tensor& value : values) {
      const bool is_vector = value.dim() == 1;  // norms' weights stay f32
      narrow.push_back(value.to(is_vector ? at::kFloat : type).requires_grad_(true));
      wide.push_back(narrow.back().detach().to(at::kDouble).requires_grad_(true));
    }
    const Tensor got = function(narrow), want = function(wide);
    EXPECT_EQ(got.scalar_type(), type);
    EXPECT_LE((got.to(at::kDouble) - want).abs().max().item<double>(),
              tolerance * std::max(1.0, want.abs().max().item<double>()));
    const Tensor weights = random(got.sizes().vec(), 7);
    const auto got_g = torch::autograd::grad({(got * weights.to(type)).sum()}, narrow);
    const auto want_g =
        torch::autograd::grad({(want * weights.to(type).to(at::kDouble)).sum()}, wide);
    for (size_t i = 0; i < got_g.size(); ++i) {
      const double size = std::max(1.0, want_g[i].abs().max().item<double>());
      EXPECT_LE((got_g[i].to(at::kDouble) - want_g[i]).abs().max().item<double>(), tolerance * size)
          << "gradient " << i << ", " << at::toString(type);
    }
  }
}

TEST(functions, loops_over_rows_agree_with_tensors) {
  for (const int64_t n : {16, 48, 50, 200}) {
    expect_rows_agree(
        [](const auto& in) { return rms_norm(in[0], in[1], 1e-5, in[0].scalar_type()); },
        {random({600, n}, 1), random({n}, 2)});
    expect_rows_agree([](const auto& in) { return swiglu(in[0]); }, {random({37, 2 * n}, 3) * 3});
  }
  for (const int64_t d : {6, 16, 32}) {
    RotationAngles angles = some_angles(9, d);
    const RotationAngles narrow{angles.cos.to(at::kFloat), angles.sin.to(at::kFloat)};
    expect_rows_agree(
        [&](const auto& in) {
          return rotate(in[0] * 1, 3, in[0].scalar_type() == at::kDouble ? angles : narrow);
        },
        {random({9, 5 * d}, 4)});
  }
  if (!cpu::has_attention()) return;  // libtorch's own then, which rounds to bf16 more often
  for (const int64_t window : {0, 20})
    for (const int64_t d : {16, 32}) {
      const HeadCounts heads{4, 2, d, window};
      const std::vector<train::Bucket> buckets = {{3, 1},  {2, 8},  {1, 63},
                                                  {1, 64}, {1, 65}, {1, 136}};
      expect_rows_agree([&](const auto& in) { return attention(in[0], buckets, heads); },
                        {random({3 + 16 + 63 + 64 + 65 + 136, 8 * d}, 5)});
    }
}

// Five rows choose two of four experts; the third is chosen by none.
TEST(functions, experts_by_row_and_all_at_once) {
  const int64_t rows = 5, e = 4, w = 3;
  const Tensor ids = at::tensor(std::vector<int64_t>{0, 3, 0, 1, 1, 3, 0, 1, 0, 3}).view({rows, 2});
  const std::vector<Tensor> values = {random({rows, e}, 1), random({4, 2 * w, e}, 2),
                                      random({4, e, w}, 3), random({rows, 2}, 4)};
  const auto run = [&](auto function) {
    return [&ids, function](const auto& in) {
      return function(in[0], ExpertWeights{in[1], in[2]}, ids, in[3]);
    };
  };
  const Function chosen = run(chosen_experts), all = run(all_experts);
  Tensor want = at::zeros({rows, e}, at::kDouble);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t id = ids[row][j].item<int64_t>();
      const Tensor gate_up = values[1][id].mv(values[0][row]);
      const Tensor between = at::silu(gate_up.narrow(0, 0, w)) * gate_up.narrow(0, w, w);
      want[row] += values[2][id].mv(between) * values[3][row][j];
    }
  // Sums of a dozen terms near 1 in f64.
  EXPECT_LT((chosen(values) - want).abs().max().item<double>(), 1e-14);
  EXPECT_LT((all(values) - want).abs().max().item<double>(), 1e-14);
  expect_gradients(chosen, values);
  expect_gradients(all, values);
}

}  // namespace
}  // namespace weft::trainer
