// What the cores work on in attention: a tile is some query heads of one KV head for some query
// tokens, a piece is a tile over a run of spans. Rows of a tile are (token, head), so that rows
// with the same visible keys stand together.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernels/attention.h"

namespace weft::kernels {

// Partial results are taken over spans cut at multiples of this position and merged in order,
// whether one core computes them all or several share them.
inline constexpr size_t kSpanTokens = 256;
inline constexpr size_t kMaxTileRows = 32;

struct AttentionTile {
  const AttentionShape* shape = nullptr;
  const AttentionCall* call = nullptr;
  size_t kv_head = 0;
  size_t first_head = 0, num_heads = 0;        // query heads
  size_t first_token = 0, num_tokens = 0;      // of the call
  size_t first_span = 0, end_span = 0;         // this piece's
  size_t tile_first_span = 0, tile_spans = 0;  // the whole tile's
  float* partial = nullptr;  // (tile_spans, state), or null: this piece is the whole tile

  size_t num_rows() const { return num_heads * num_tokens; }
  // The last key that a query sees.
  size_t position(size_t token) const {
    return call->sees_all ? call->kv.length - 1 : call->first_position + first_token + token;
  }
  // Keys that a query sees: [first_key, position].
  size_t first_key(size_t position) const {
    return shape->window != 0 && position >= shape->window ? position + 1 - shape->window : 0;
  }
};

// A running softmax of R rows: weighted sums (R, head_dim), then R maxima (in log2 units), then R
// sums.
inline size_t state_floats(size_t rows, size_t head_dim) {
  return (rows * (head_dim + 2) + 15) / 16 * 16;
}

// What int pages need (attention_codes-inl.h): of each row the query's codes, its step, its sums by
// group; weights or their codes, step and offset.
inline size_t code_floats(size_t head_dim) {
  return kMaxTileRows * (head_dim / 2 + 1 + head_dim / 16 + kPageTokens + 2);
}

// One core's: queries in f32 and bf16, scores, probabilities as bf16, sums by lane, what int pages
// need, two states.
inline size_t core_floats(size_t head_dim) {
  return kMaxTileRows * (head_dim + head_dim / 2 + kPageTokens + kPageTokens / 2 + 16) +
         code_floats(head_dim) + 2 * state_floats(kMaxTileRows, head_dim);
}

// Tokens of a page that a query sees.
struct Range {
  size_t begin, end;
};

}  // namespace weft::kernels
