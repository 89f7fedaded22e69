// Causal attention on a CPU, forward and backward: for each head of a sequence, some queries at a
// time against all keys up to them, in f32. On the way back the weights are computed once more
// (arXiv 2205.14135, §3.1), so that memory grows with the length, not with its square.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/cpu_rows.h"

namespace weft::trainer::cpu {

struct AttentionShape {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t window;  // tokens a query looks back at, itself among them; 0: all

  int64_t group() const { return num_heads / num_kv_heads; }
  int64_t stride() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

// One head of keys and values of one sequence, with the query heads that look at it.
struct AttentionJob {
  int64_t first_row, length, kv_head;
};

// A head's rows in f32, side by side, and what is computed of them.
struct AttentionWorkspace {
  std::vector<float> q, k, v, out, g_q, g_k, g_v, p, dp;
};

// False: this build has no BLAS, and the two below do nothing.
bool has_attention();
// qkv (rows, (H + 2G) * D) -> out (rows, H * D). T: float or Bf16.
template <typename T>
void attention(const AttentionShape& shape, const AttentionJob& job, const T* qkv, T* out,
               AttentionWorkspace& w);
// g: of out; g_qkv as qkv: the job's columns of the sequence's rows are written.
template <typename T>
void attention_backward(const AttentionShape& shape, const AttentionJob& job, const T* qkv,
                        const T* g, T* g_qkv, AttentionWorkspace& w);

}  // namespace weft::trainer::cpu
