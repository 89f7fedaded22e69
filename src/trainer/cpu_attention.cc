#include "trainer/cpu_attention.h"

#include <algorithm>
#include <cmath>

#ifdef WEFT_HAVE_BLAS
extern "C" void sgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* a_stride,
                       const float* b, const int* b_stride, const float* beta, float* c,
                       const int* c_stride);
#endif

namespace weft::trainer::cpu {
namespace {

constexpr int64_t kQueries = 64;  // at a time

// c (m, n) = a (m, k) b (k, n), row-major, or with a or b read transposed. BLAS is column-major, so
// everything is mirrored: c^T = b^T a^T.
enum class Transpose : uint8_t { kNone, kA, kB };
enum class Result : uint8_t { kSet, kAdd };
void multiply([[maybe_unused]] Transpose transpose, [[maybe_unused]] Result result,
              [[maybe_unused]] int64_t m, [[maybe_unused]] int64_t n, [[maybe_unused]] int64_t k,
              [[maybe_unused]] const float* a, [[maybe_unused]] int64_t a_stride,
              [[maybe_unused]] const float* b, [[maybe_unused]] int64_t b_stride,
              [[maybe_unused]] float* c, [[maybe_unused]] int64_t c_stride) {
#ifdef WEFT_HAVE_BLAS
  const auto i32 = [](int64_t value) { return static_cast<int>(value); };
  const int rows = i32(n), columns = i32(m), inner = i32(k);
  const int first_stride = i32(b_stride), second_stride = i32(a_stride), out_stride = i32(c_stride);
  const float one = 1, beta = result == Result::kAdd ? 1.0f : 0.0f;
  sgemm_(transpose == Transpose::kB ? "T" : "N", transpose == Transpose::kA ? "T" : "N", &rows,
         &columns, &inner, &one, b, &first_stride, a, &second_stride, &beta, c, &out_stride);
#endif
}

float* room(std::vector<float>& values, int64_t count) {
  values.resize(static_cast<size_t>(count));
  return values.data();
}

template <typename T>
void widen(const T* from, int64_t stride, int64_t rows, int64_t d, std::vector<float>& to) {
  copy_rows(from, stride, rows, d, room(to, rows * d), d);
}

float scale_of(const AttentionShape& shape) {
  return 1 / std::sqrt(static_cast<float>(shape.head_dim));
}

// w.p (count, first + count) = softmax of the scores of queries [first, first + count).
void weigh(const AttentionShape& shape, int64_t first, int64_t count, AttentionWorkspace& w) {
  const int64_t d = shape.head_dim, keys = first + count;
  float* const p = room(w.p, count * keys);
  multiply(Transpose::kB, Result::kSet, count, keys, d, w.q.data() + first * d, d, w.k.data(), d, p,
           keys);
  causal_softmax(p, count, keys, first + 1, shape.window, scale_of(shape));
}

}  // namespace

bool has_attention() {
#ifdef WEFT_HAVE_BLAS
  return true;
#else
  return false;
#endif
}

template <typename T>
void attention(const AttentionShape& shape, const AttentionJob& job, const T* qkv, T* out,
               AttentionWorkspace& w) {
  const int64_t d = shape.head_dim, n = job.length, stride = shape.stride();
  const int64_t out_stride = shape.num_heads * d;
  const T* const rows = qkv + job.first_row * stride;
  widen(rows + (shape.num_heads + job.kv_head) * d, stride, n, d, w.k);
  widen(rows + (shape.num_heads + shape.num_kv_heads + job.kv_head) * d, stride, n, d, w.v);
  float* const sums = room(w.out, n * d);
  for (int64_t h = job.kv_head * shape.group(); h < (job.kv_head + 1) * shape.group(); ++h) {
    widen(rows + h * d, stride, n, d, w.q);
    for (int64_t first = 0; first < n; first += kQueries) {
      const int64_t count = std::min(kQueries, n - first), keys = first + count;
      weigh(shape, first, count, w);
      multiply(Transpose::kNone, Result::kSet, count, d, keys, w.p.data(), keys, w.v.data(), d,
               sums + first * d, d);
    }
    copy_rows(sums, d, n, d, out + job.first_row * out_stride + h * d, out_stride);
  }
}

// P = softmax(scale Q K^T), O = P V: dV = P^T dO, dP = dO V^T, dS = scale P (dP - rowsum(dP P)),
// dQ = dS K, dK = dS^T Q; dK and dV are sums over the group's heads.
template <typename T>
void attention_backward(const AttentionShape& shape, const AttentionJob& job, const T* qkv,
                        const T* g, T* g_qkv, AttentionWorkspace& w) {
  const int64_t d = shape.head_dim, n = job.length, stride = shape.stride();
  const int64_t k_at = (shape.num_heads + job.kv_head) * d;
  const int64_t v_at = k_at + shape.num_kv_heads * d, out_stride = shape.num_heads * d;
  const T* const rows = qkv + job.first_row * stride;
  T* const g_rows = g_qkv + job.first_row * stride;
  widen(rows + k_at, stride, n, d, w.k);
  widen(rows + v_at, stride, n, d, w.v);
  float* const g_q = room(w.g_q, n * d);
  w.g_k.assign(static_cast<size_t>(n * d), 0);
  w.g_v.assign(static_cast<size_t>(n * d), 0);
  for (int64_t h = job.kv_head * shape.group(); h < (job.kv_head + 1) * shape.group(); ++h) {
    widen(rows + h * d, stride, n, d, w.q);
    widen(g + job.first_row * out_stride + h * d, out_stride, n, d, w.out);
    for (int64_t first = 0; first < n; first += kQueries) {
      const int64_t count = std::min(kQueries, n - first), keys = first + count;
      const float* const g_out = w.out.data() + first * d;
      const float* const q = w.q.data() + first * d;
      weigh(shape, first, count, w);
      const float* const p = w.p.data();
      float* const dp = room(w.dp, count * keys);
      multiply(Transpose::kB, Result::kSet, count, keys, d, g_out, d, w.v.data(), d, dp, keys);
      multiply(Transpose::kA, Result::kAdd, keys, d, count, p, keys, g_out, d, w.g_v.data(), d);
      softmax_backward(p, dp, count, keys, scale_of(shape));
      multiply(Transpose::kNone, Result::kSet, count, d, keys, dp, keys, w.k.data(), d,
               g_q + first * d, d);
      multiply(Transpose::kA, Result::kAdd, keys, d, count, dp, keys, q, d, w.g_k.data(), d);
    }
    copy_rows(g_q, d, n, d, g_rows + h * d, stride);
  }
  copy_rows(w.g_k.data(), d, n, d, g_rows + k_at, stride);
  copy_rows(w.g_v.data(), d, n, d, g_rows + v_at, stride);
}

template void attention(const AttentionShape&, const AttentionJob&, const float*, float*,
                        AttentionWorkspace&);
template void attention(const AttentionShape&, const AttentionJob&, const Bf16*, Bf16*,
                        AttentionWorkspace&);
template void attention_backward(const AttentionShape&, const AttentionJob&, const float*,
                                 const float*, float*, AttentionWorkspace&);
template void attention_backward(const AttentionShape&, const AttentionJob&, const Bf16*,
                                 const Bf16*, Bf16*, AttentionWorkspace&);

}  // namespace weft::trainer::cpu
