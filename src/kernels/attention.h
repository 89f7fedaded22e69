// Causal grouped-query attention over a paged KV cache, blocked with a running softmax
// (FlashAttention, arXiv 2205.14135 and 2307.08691), for prefill, decode and any ragged mix of both
// in one call.
//
// Batch-invariant: the result for a query depends only on the query, its position and the keys and
// values up to it, bit for bit: prefill in one piece, in chunks or token by token agree, as do any
// number of cores. (Keys are visited in blocks cut at fixed absolute positions; a long context is
// cut into fixed spans whose partial results are merged in order.)
#pragma once

#include <cstddef>
#include <span>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/kv_view.h"

namespace weft::kernels {

struct AttentionShape {
  size_t num_heads = 0;  // a multiple of kv.num_kv_heads
  KvShape kv;
  float scale = 1;    // usually 1 / sqrt(head_dim)
  size_t window = 0;  // sliding window in tokens; 0 = all earlier tokens
};

// One sequence's part of the batch: queries at positions first_position ... first_position +
// num_tokens - 1, whose keys and values are in `kv` already (kv.length > last position).
struct AttentionCall {
  const float* q = nullptr;  // (num_tokens, num_heads, head_dim) f32, RoPE applied
  size_t q_stride = 0;       // values from token to token
  float* out = nullptr;      // (num_tokens, num_heads, head_dim) f32
  size_t out_stride = 0;
  size_t num_tokens = 0;
  size_t first_position = 0;
  KvView kv;
  // All queries see all of kv's keys, whatever their positions (keys of a part of the sequence that
  // lies before all of them; attention without a mask). Then first_position means nothing.
  bool sees_all = false;
  // Where wanted, (num_tokens, num_heads): log2 of the sum over keys of 2^score, scores in log2
  // units. Results over parts of the keys are merged by it.
  float* log_sum = nullptr;
};

struct AttentionTile;

// Scratch that attention keeps between calls. Owned by one engine thread.
struct AttentionScratch {
  Scratch<AttentionTile> tiles;
  Scratch<float> core;     // what each core works on
  Scratch<float> partial;  // results of spans, where several cores share one query
};

// Accuracy: keys, values as stored; f32 sums. On CPUs with bf16 dot products, bf16 pages also round
// queries and probabilities to bf16 (relative 2^-9 each). Pages of int formats are read as they
// are, never widened in memory; with AVX-512, queries and weights meet them as fixed-point numbers
// of 16 bit (two int8 dot products), 2^-16 of a query's largest value and of a page's largest
// weight off. kv.head_dim <= 512, kv.group_size() <= 256.
void attention(const AttentionShape& shape, std::span<const AttentionCall> calls,
               AttentionScratch& scratch, const CoreSet& cores);

}  // namespace weft::kernels
