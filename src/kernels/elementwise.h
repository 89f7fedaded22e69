// The small row operations of a transformer. All rows are f32; `out` may be the input itself.
// Each row's result depends on that row alone. Errors against float64 are bounded in the tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weft::kernels {

// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] (RMSNorm, arXiv 1910.07467), n values.
void rms_norm(const float* x, const float* weight, float eps, size_t n, float* out);

// out[i] = silu(gate[i]) * up[i], silu(z) = z / (1 + exp(-z)) (SwiGLU, arXiv 2002.05202).
void silu_multiply(const float* gate, const float* up, size_t n, float* out);

// In-place softmax over n logits, subtracting the maximum first.
void softmax(float* x, size_t n);

enum class RopeStyle : uint8_t {
  kInterleaved,  // turns pairs (2i, 2i+1): Llama in GGUF files, llama2.c
  kHalf,         // turns pairs (i, i + dim/2): Hugging Face checkpoints, Qwen
};

// The angular frequency of each pair, after scaling (arXiv 2104.09864; Llama 3's and YaRN's change it).
struct RopeTable {
  RopeStyle style = RopeStyle::kHalf;
  std::vector<float> inverse_frequency;  // (rotary_dim / 2)
  float magnitude = 1;                   // multiplies sin and cos (YaRN's attention factor)
};

// Rotates `num_heads` heads of `head_dim` values in place for one token at `position`. The first
// 2 * inverse_frequency.size() values of each head turn, the rest stay.
void rope(const RopeTable& table, size_t position, size_t num_heads, size_t head_dim, float* heads);

}  // namespace weft::kernels
