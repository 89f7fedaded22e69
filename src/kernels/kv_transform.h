// What may be done to keys, queries and values before they are stored in few bits, and undone after
// (QuaRot, arXiv 2404.00456; PM-KVQ's smoothing, arXiv 2505.18610 eq. 9-12). Row operations on
// heads of f32, after RoPE:
//
//   q . k = (H q) . (H k)             H orthonormal: spreads an outlier over all features
//   q . k = (q l) . (k / l)           l > 0 for each feature: makes keys smaller and queries larger
//   sum p v = H (sum p H v)           H is its own inverse
//
// The same bits on every instruction set.
#pragma once

#include <cstddef>

namespace weft::kernels {

constexpr bool has_hadamard(size_t head_dim) {
  return head_dim != 0 && (head_dim & (head_dim - 1)) == 0;
}

// heads: (num_heads, head_dim), in place, by the orthonormal Hadamard matrix of Sylvester's order.
// head_dim: a power of two (asserted).
void hadamard(size_t num_heads, size_t head_dim, float* heads);

// heads (num_heads, head_dim) *= factors of their KV head, (num_heads / heads_per_factor,
// head_dim).
void multiply_features(size_t num_heads, size_t heads_per_factor, size_t head_dim,
                       const float* factors, float* heads);

}  // namespace weft::kernels
