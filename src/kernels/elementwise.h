// The small row operations of a transformer. All rows are f32; `out` may be the input itself.
// Each row's result depends on that row alone. Errors against float64 are bounded in the tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace weft::kernels {

// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] (RMSNorm, arXiv 1910.07467), n values.
void rms_norm(const float* x, const float* weight, float eps, size_t n, float* out);

// out[i] = silu(gate[i]) * up[i], silu(z) = z / (1 + exp(-z)) (SwiGLU, arXiv 2002.05202).
void silu_multiply(const float* gate, const float* up, size_t n, float* out);

// In-place softmax over n logits, subtracting the maximum first. Logits of -inf get 0; one at least
// must be finite.
void softmax(float* x, size_t n);

enum class RopeStyle : uint8_t {
  kInterleaved,  // turns pairs (2i, 2i+1): Llama in GGUF files, llama2.c
  kHalf,         // turns pairs (i, i + dim/2): Hugging Face checkpoints, Qwen
};

// The angular frequency of each pair, after scaling (arXiv 2104.09864; Llama 3's and YaRN's change
// it).
struct RopeTable {
  RopeStyle style = RopeStyle::kHalf;
  std::vector<float> inverse_frequency;  // (rotary_dim / 2)
  float magnitude = 1;                   // multiplies sin and cos (YaRN's attention factor)
};

// The angles of one position, times the magnitude: rotary_dim values, cosines then sines. Computed
// once per token of a forward pass and used in all layers. Exact to f32 rounding at any position.
void rope_angles(const RopeTable& table, size_t position, float* cos_sin);

// Rotates `num_heads` heads of `head_dim` values in place by what rope_angles() computed. The first
// 2 * inverse_frequency.size() values of each head turn, the rest stay.
void rope(const RopeTable& table, const float* cos_sin, size_t num_heads, size_t head_dim,
          float* heads);

}  // namespace weft::kernels
