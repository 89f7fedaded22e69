// What a CPU does between the products of a training step, in one pass over memory each, forward
// and backward. Plain loops over some rows, compiled for several instruction sets; the callers
// share rows out. T: float, or Bf16 for numbers that products read or made; sums are f32.
#pragma once

#include <cstdint>

namespace weft::trainer::cpu {

struct Bf16 {
  uint16_t bits;
};

// out = x * inverse * weight, inverse = 1 / sqrt(mean(x^2) + epsilon): rows of `n`. x: float or
// Bf16.
template <typename X, typename T>
void rms_norm(const X* x, const float* weight, float epsilon, int64_t rows, int64_t n, T* out,
              float* inverse);
// Adds to g_weight (n).
template <typename X, typename T>
void rms_norm_backward(const X* x, const float* weight, const float* inverse, const T* g,
                       int64_t rows, int64_t n, X* g_x, float* g_weight);

// The first `count` heads of each row of `stride` values: heads * cos + swap_halves(heads) * sin,
// in place; cos and sin (rows, d). `sign`: -1 turns back.
template <typename T>
void rotate(T* rows, int64_t num_rows, int64_t stride, int64_t count, int64_t d, const float* cos,
            const float* sin, float sign);

// (rows, 2n): n gates, n ups -> (rows, n).
template <typename T>
void swiglu(const T* gate_up, int64_t rows, int64_t n, T* out);
template <typename T>
void swiglu_backward(const T* gate_up, const T* g, int64_t rows, int64_t n, T* g_gate_up);

// p (rows, n): row r holds scores of the first seen + r keys, of which those before first(r) are
// too far back: softmax of scale * scores, 0 elsewhere. window 0: none is too far.
void causal_softmax(float* p, int64_t rows, int64_t n, int64_t seen, int64_t window, float scale);
// ds = p * (dp - sum(dp * p)) * scale, in dp.
void softmax_backward(const float* p, float* dp, int64_t rows, int64_t n, float scale);

// Rows of `n` values, `from_stride` and `to_stride` apart.
template <typename From, typename To>
void copy_rows(const From* from, int64_t from_stride, int64_t rows, int64_t n, To* to,
               int64_t to_stride);

// For these types.
template <>
void rms_norm(const float*, const float*, float, int64_t, int64_t, float*, float*);
template <>
void rms_norm(const float*, const float*, float, int64_t, int64_t, Bf16*, float*);
template <>
void rms_norm(const Bf16*, const float*, float, int64_t, int64_t, Bf16*, float*);
template <>
void rms_norm_backward(const float*, const float*, const float*, const float*, int64_t, int64_t,
                       float*, float*);
template <>
void rms_norm_backward(const float*, const float*, const float*, const Bf16*, int64_t, int64_t,
                       float*, float*);
template <>
void rms_norm_backward(const Bf16*, const float*, const float*, const Bf16*, int64_t, int64_t,
                       Bf16*, float*);
template <>
void rotate(float*, int64_t, int64_t, int64_t, int64_t, const float*, const float*, float);
template <>
void rotate(Bf16*, int64_t, int64_t, int64_t, int64_t, const float*, const float*, float);
template <>
void swiglu(const float*, int64_t, int64_t, float*);
template <>
void swiglu(const Bf16*, int64_t, int64_t, Bf16*);
template <>
void swiglu_backward(const float*, const float*, int64_t, int64_t, float*);
template <>
void swiglu_backward(const Bf16*, const Bf16*, int64_t, int64_t, Bf16*);
template <>
void copy_rows(const float*, int64_t, int64_t, int64_t, float*, int64_t);
template <>
void copy_rows(const float*, int64_t, int64_t, int64_t, Bf16*, int64_t);
template <>
void copy_rows(const Bf16*, int64_t, int64_t, int64_t, float*, int64_t);

}  // namespace weft::trainer::cpu
