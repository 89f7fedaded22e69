#include "kernels/kv_transform.h"

#include <cmath>

#include "base/error.h"

namespace weft::kernels {

void hadamard(size_t num_heads, size_t head_dim, float* heads) {
  WEFT_ASSERT(has_hadamard(head_dim));
  const float norm = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (size_t h = 0; h < num_heads; ++h, heads += head_dim) {
    for (size_t half = 1; half < head_dim; half *= 2) {
      for (size_t block = 0; block < head_dim; block += 2 * half) {
        float* const a = heads + block;
        float* const b = a + half;
        for (size_t i = 0; i < half; ++i) {
          const float x = a[i], y = b[i];
          a[i] = x + y;
          b[i] = x - y;
        }
      }
    }
    for (size_t i = 0; i < head_dim; ++i) heads[i] *= norm;
  }
}

void multiply_features(size_t num_heads, size_t heads_per_factor, size_t head_dim,
                       const float* factors, float* heads) {
  for (size_t h = 0; h < num_heads; ++h) {
    const float* const f = factors + h / heads_per_factor * head_dim;
    for (size_t i = 0; i < head_dim; ++i) heads[h * head_dim + i] *= f[i];
  }
}

}  // namespace weft::kernels
