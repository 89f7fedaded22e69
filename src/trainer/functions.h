// Steps of a transformer that autograd would take in many small pieces, each with its gradient.
// T rows; number formats: f32, f64 (in tests), or bf16 for the inputs of products, with f32 inside.
// The same on a CPU and on a GPU.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "train/batch.h"

namespace weft::trainer {

using at::Tensor;

// x (..., E) / sqrt(mean(x^2) + epsilon) * weight (E), as `out_type`.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon, at::ScalarType out_type);

// cos and sin of the positions (T) of rows, (T, 1, D) each: both halves of a head, the sine of the
// first half negated, so that rotate() is x * cos + swap_halves(x) * sin.
struct RotationAngles {
  Tensor cos, sin;
};
// qkv (T, (H + 2G) * D), no view of something else: the first `num_rotated` heads are turned, in
// place.
Tensor rotate(const Tensor& qkv, int64_t num_rotated, const RotationAngles& angles);

struct HeadCounts {
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t window = 0;  // tokens a query looks back at, itself among them; 0: all
};
// Causal attention within each sequence of the buckets: (T, (H + 2G) * D) ->
// (T, H * D).
Tensor attention(const Tensor& qkv, std::span<const train::Bucket> buckets,
                 const HeadCounts& heads);

// (T, 2F), gates then ups -> silu(gate) * up, (T, F).
Tensor swiglu(const Tensor& gate_up);

// scale * sum of -log softmax(hidden weight^T)[target]: hidden (W, E), weight (V, E), targets (W).
// The logits of all rows never exist at once; gradients are computed on the way forward where they
// are wanted.
Tensor head_loss(const Tensor& hidden, const Tensor& weight, const Tensor& targets, double scale);

// N experts of width X, of input and output E.
struct ExpertWeights {
  Tensor gate_up;  // (N, 2X, E)
  Tensor down;     // (N, E, X)
};
// sum over j of weights[t][j] * expert ids[t][j] (x[t]): x (T, E), ids and weights (T, k) -> (T,
// E). chosen_experts sorts the rows by expert, for which the host has to know how many each gets;
// all_experts computes N / k times as much, but in two products and without waiting for the device.
Tensor chosen_experts(const Tensor& x, const ExpertWeights& experts, const Tensor& ids,
                      const Tensor& weights);
Tensor all_experts(const Tensor& x, const ExpertWeights& experts, const Tensor& ids,
                   const Tensor& weights);

}  // namespace weft::trainer
