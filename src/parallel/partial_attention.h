// Attention over some of the keys, put together with that over others: online softmax (as in
// FlashAttention, arXiv 2205.14135) over what several calls or ranks give.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace weft::parallel {

inline constexpr float kNoKeys = -std::numeric_limits<float>::infinity();  // their log-sum-exp

// out, with the log-sum-exp a (base 2) of its keys, and part, with b, become the result over both.
inline void merge_partial(float* out, float& a, const float* part, float b, size_t dim) {
  if (a == kNoKeys) {
    std::copy_n(part, dim, out);
    a = b;
    return;
  }
  const float larger = std::max(a, b), smaller = std::min(a, b);
  const float weight = 1 / (1 + std::exp2(a - b));  // of the part; 0 where 2^(a - b) overflows
  for (size_t i = 0; i < dim; ++i) out[i] += weight * (part[i] - out[i]);
  a = larger + std::log2(1 + std::exp2(smaller - larger));
}

}  // namespace weft::parallel
