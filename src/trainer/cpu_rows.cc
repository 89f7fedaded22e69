#include "trainer/cpu_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

// The build is for any x86-64; each loop here is compiled for the newer ones too, and the loader
// picks. (The kernels of inference use Highway; these loops have nothing that a compiler misses.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WEFT_LOOPS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WEFT_LOOPS
#endif

namespace weft::trainer::cpu {
namespace {

#define WEFT_INLINE __attribute__((always_inline)) inline

WEFT_INLINE float load(float x) { return x; }
WEFT_INLINE float load(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

WEFT_INLINE void store(float& to, float x) { to = x; }
// To nearest, ties to even; NaN stays NaN.
WEFT_INLINE void store(Bf16& to, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
}

// exp to a few units in the last place (Cephes' polynomial); arguments beyond +-87 count as that.
WEFT_INLINE float fast_exp(float x) {
  x = std::min(std::max(x, -87.0f), 87.0f);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest whole number
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// As whole numbers that are ordered like the floats, which a compiler may compare in any order. A
// NaN counts as larger than all.
WEFT_INLINE float max_of(const float* x, int64_t n) {
  const auto ordered = [](int32_t bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); };
  int32_t largest = std::numeric_limits<int32_t>::min();
  for (int64_t i = 0; i < n; ++i)
    largest = std::max(largest, ordered(std::bit_cast<int32_t>(x[i])));
  return std::bit_cast<float>(ordered(largest));
}

// A sum in 16 lanes, whatever the instruction set: loops over floats are not reordered by
// themselves.
template <typename Term>
WEFT_INLINE float sum(int64_t n, Term term) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int64_t j = 0; j < 16; ++j) lanes[j] += term(i + j);
  for (int64_t j = 0; i < n; ++i, ++j) lanes[j] += term(i);
  float total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

template <typename X, typename T>
WEFT_INLINE void rms_norm_rows(const X* x, const float* weight, float epsilon, int64_t rows,
                               int64_t n, T* out, float* inverse) {
  for (int64_t row = 0; row < rows; ++row, x += n, out += n) {
    const float squares = sum(n, [&](int64_t i) { return load(x[i]) * load(x[i]); });
    const float factor = 1 / std::sqrt(squares / static_cast<float>(n) + epsilon);
    inverse[row] = factor;
    for (int64_t i = 0; i < n; ++i) store(out[i], load(x[i]) * factor * weight[i]);
  }
}

template <typename X, typename T>
WEFT_INLINE void rms_norm_backward_rows(const X* x, const float* weight, const float* inverse,
                                        const T* g, int64_t rows, int64_t n, X* g_x,
                                        float* g_weight) {
  for (int64_t row = 0; row < rows; ++row, x += n, g += n, g_x += n) {
    const float factor = inverse[row];
    const float mean = sum(n, [&](int64_t i) { return load(g[i]) * weight[i] * load(x[i]); }) *
                       factor / static_cast<float>(n);
    for (int64_t i = 0; i < n; ++i) {
      const float normed = load(x[i]) * factor;
      g_weight[i] += load(g[i]) * normed;
      store(g_x[i], (load(g[i]) * weight[i] - normed * mean) * factor);
    }
  }
}

template <typename T>
WEFT_INLINE void rotate_rows(T* rows, int64_t num_rows, int64_t stride, int64_t count, int64_t d,
                             const float* cos, const float* sin, float sign) {
  const int64_t half = d / 2;
  for (int64_t row = 0; row < num_rows; ++row, rows += stride, cos += d, sin += d)
    for (int64_t head = 0; head < count; ++head) {
      T* const a = rows + head * d;
      T* const b = a + half;
      for (int64_t i = 0; i < half; ++i) {
        const float x = load(a[i]), y = load(b[i]), s = sign * sin[half + i];
        store(a[i], x * cos[i] - y * s);
        store(b[i], y * cos[i] + x * s);
      }
    }
}

template <typename T>
WEFT_INLINE void swiglu_rows(const T* gate_up, int64_t rows, int64_t n, T* out) {
  for (int64_t row = 0; row < rows; ++row, gate_up += 2 * n, out += n)
    for (int64_t i = 0; i < n; ++i) {
      const float gate = load(gate_up[i]);
      store(out[i], gate / (1 + fast_exp(-gate)) * load(gate_up[n + i]));
    }
}

template <typename T>
WEFT_INLINE void swiglu_backward_rows(const T* gate_up, const T* g, int64_t rows, int64_t n,
                                      T* g_gate_up) {
  for (int64_t row = 0; row < rows; ++row, gate_up += 2 * n, g += n, g_gate_up += 2 * n) {
    // Two results beside each other and three arguments: GCC's own test whether they overlap fails.
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const float gate = load(gate_up[i]), up = load(gate_up[n + i]), slope = load(g[i]);
      const float sigmoid = 1 / (1 + fast_exp(-gate));
      store(g_gate_up[i], slope * up * sigmoid * (1 + gate * (1 - sigmoid)));
      store(g_gate_up[n + i], slope * gate * sigmoid);
    }
  }
}

template <typename From, typename To>
WEFT_INLINE void copy(const From* from, int64_t from_stride, int64_t rows, int64_t n, To* to,
                      int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row, from += from_stride, to += to_stride)
    for (int64_t i = 0; i < n; ++i) store(to[i], load(from[i]));
}

}  // namespace

// Clones are of functions, not of templates: each type has its own.
#define WEFT_NORM(X, T)                                                                          \
  template <>                                                                                    \
  WEFT_LOOPS void rms_norm<X, T>(const X* x, const float* weight, float epsilon, int64_t rows,   \
                                 int64_t n, T* out, float* inverse) {                            \
    rms_norm_rows(x, weight, epsilon, rows, n, out, inverse);                                    \
  }                                                                                              \
  template <>                                                                                    \
  WEFT_LOOPS void rms_norm_backward<X, T>(const X* x, const float* weight, const float* inverse, \
                                          const T* g, int64_t rows, int64_t n, X* g_x,           \
                                          float* g_weight) {                                     \
    rms_norm_backward_rows(x, weight, inverse, g, rows, n, g_x, g_weight);                       \
  }
WEFT_NORM(float, float)
WEFT_NORM(float, Bf16)
WEFT_NORM(Bf16, Bf16)

#define WEFT_ROWS(T)                                                                              \
  template <>                                                                                     \
  WEFT_LOOPS void rotate<T>(T * rows, int64_t num_rows, int64_t stride, int64_t count, int64_t d, \
                            const float* cos, const float* sin, float sign) {                     \
    rotate_rows(rows, num_rows, stride, count, d, cos, sin, sign);                                \
  }                                                                                               \
  template <>                                                                                     \
  WEFT_LOOPS void swiglu<T>(const T* gate_up, int64_t rows, int64_t n, T* out) {                  \
    swiglu_rows(gate_up, rows, n, out);                                                           \
  }                                                                                               \
  template <>                                                                                     \
  WEFT_LOOPS void swiglu_backward<T>(const T* gate_up, const T* g, int64_t rows, int64_t n,       \
                                     T* g_gate_up) {                                              \
    swiglu_backward_rows(gate_up, g, rows, n, g_gate_up);                                         \
  }
WEFT_ROWS(float)
WEFT_ROWS(Bf16)

#define WEFT_COPY(From, To)                                                                \
  template <>                                                                              \
  WEFT_LOOPS void copy_rows<From, To>(const From* from, int64_t from_stride, int64_t rows, \
                                      int64_t n, To* to, int64_t to_stride) {              \
    copy(from, from_stride, rows, n, to, to_stride);                                       \
  }
WEFT_COPY(float, float)
WEFT_COPY(float, Bf16)
WEFT_COPY(Bf16, float)

WEFT_LOOPS void causal_softmax(float* p, int64_t rows, int64_t n, int64_t seen, int64_t window,
                               float scale) {
  for (int64_t row = 0; row < rows; ++row, p += n) {
    const int64_t end = seen + row;
    const int64_t begin = window == 0 ? 0 : std::max<int64_t>(0, end - window);
    const float largest = max_of(p + begin, end - begin);
    for (int64_t i = begin; i < end; ++i) p[i] = fast_exp((p[i] - largest) * scale);
    const float factor = 1 / sum(end - begin, [&](int64_t i) { return p[begin + i]; });
    for (int64_t i = begin; i < end; ++i) p[i] *= factor;
    std::fill(p, p + begin, 0.0f);
    std::fill(p + end, p + n, 0.0f);
  }
}

WEFT_LOOPS void softmax_backward(const float* p, float* dp, int64_t rows, int64_t n, float scale) {
  for (int64_t row = 0; row < rows; ++row, p += n, dp += n) {
    const float mean = sum(n, [&](int64_t i) { return p[i] * dp[i]; });
    for (int64_t i = 0; i < n; ++i) dp[i] = p[i] * (dp[i] - mean) * scale;
  }
}

}  // namespace weft::trainer::cpu
