#include "kernels/elementwise.h"

#include <cmath>

#include "base/error.h"
#include "kernels/dispatch.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cc"
#include "hwy/foreach_target.h"
#include "kernels/elementwise-inl.h"

#if HWY_ONCE
namespace weft::kernels {
HWY_EXPORT(RmsNorm);
HWY_EXPORT(SiluMultiply);
HWY_EXPORT(Softmax);
HWY_EXPORT(Rope);

void rms_norm(const float* x, const float* weight, float eps, size_t n, float* out) {
  WEFT_DISPATCH(RmsNorm)(x, weight, eps, n, out);
}

void silu_multiply(const float* gate, const float* up, size_t n, float* out) {
  WEFT_DISPATCH(SiluMultiply)(gate, up, n, out);
}

void softmax(float* x, size_t n) {
  if (n != 0) WEFT_DISPATCH(Softmax)(x, n);
}

void rope_angles(const RopeTable& table, size_t position, float* cos_sin) {
  const size_t half = table.inverse_frequency.size();
  for (size_t i = 0; i < half; ++i) {
    // In f64: an f32 angle is off by 2e-4 at position 4096.
    const double angle =
        static_cast<double>(position) * static_cast<double>(table.inverse_frequency[i]);
    cos_sin[i] = static_cast<float>(std::cos(angle) * static_cast<double>(table.magnitude));
    cos_sin[half + i] = static_cast<float>(std::sin(angle) * static_cast<double>(table.magnitude));
  }
}

void rope(const RopeTable& table, const float* cos_sin, size_t num_heads, size_t head_dim,
          float* heads) {
  const size_t half = table.inverse_frequency.size();
  WEFT_ASSERT(2 * half <= head_dim);
  WEFT_DISPATCH(Rope)(table.style, cos_sin, half, num_heads, head_dim, heads);
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
