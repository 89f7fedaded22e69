#include "kernels/attention.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "kernels/attention_tile.h"
#include "kernels/dispatch.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cc"
#include "hwy/foreach_target.h"
#include "kernels/attention-inl.h"

#if HWY_ONCE
namespace weft::kernels {
HWY_EXPORT(AttendTile);
HWY_EXPORT(MergeTile);

namespace {

// How the heads and tokens of a call are cut into tiles. Tiles end at multiples of `tokens` in
// absolute position, so that few of them straddle a page.
struct Grid {
  size_t heads, head_tiles;  // of one KV head's group
  size_t tokens, token_tiles;
  size_t first;  // tokens before the first multiple

  Grid(const AttentionShape& shape, const AttentionCall& call) {
    const size_t group = shape.num_heads / shape.kv.num_kv_heads;
    heads = std::min(group, kMaxTileRows);
    head_tiles = (group + heads - 1) / heads;
    tokens = std::bit_floor(kMaxTileRows / heads);
    first = call.first_position % tokens;
    token_tiles = (first + call.num_tokens + tokens - 1) / tokens;
  }
  size_t num_tiles(const AttentionShape& shape) const {
    return shape.kv.num_kv_heads * head_tiles * token_tiles;
  }
};

AttentionTile make_tile(const AttentionShape& shape, const AttentionCall& call, const Grid& grid,
                        size_t index) {
  const size_t group = shape.num_heads / shape.kv.num_kv_heads;
  const size_t token_tile = index / grid.head_tiles % grid.token_tiles;
  const size_t head_begin = index % grid.head_tiles * grid.heads;
  const size_t token_begin = token_tile == 0 ? 0 : token_tile * grid.tokens - grid.first;
  const size_t token_end = std::min((token_tile + 1) * grid.tokens - grid.first, call.num_tokens);
  AttentionTile tile{.shape = &shape, .call = &call};
  tile.kv_head = index / (grid.head_tiles * grid.token_tiles);
  tile.first_head = tile.kv_head * group + head_begin;
  tile.num_heads = std::min(grid.heads, group - head_begin);
  tile.first_token = token_begin;
  tile.num_tokens = token_end - token_begin;
  tile.first_span = tile.tile_first_span = tile.first_key(tile.position(0)) / kSpanTokens;
  tile.end_span = tile.position(tile.num_tokens - 1) / kSpanTokens + 1;
  tile.tile_spans = tile.end_span - tile.first_span;
  return tile;
}

// Work of one span, in the time of a row and page; reading the page costs as much as some rows.
size_t span_cost(const AttentionTile& tile) { return tile.num_rows() + 4; }

template <class Visit>
void for_each_tile(const AttentionShape& shape, std::span<const AttentionCall> calls, Visit visit) {
  for (const AttentionCall& call : calls) {
    if (call.num_tokens == 0) continue;
    const Grid grid(shape, call);
    for (size_t i = 0, n = grid.num_tiles(shape); i < n; ++i)
      visit(make_tile(shape, call, grid, i));
  }
}

void check(const AttentionShape& shape, std::span<const AttentionCall> calls) {
  WEFT_ASSERT(shape.kv.num_kv_heads != 0 && shape.num_heads % shape.kv.num_kv_heads == 0);
  WEFT_ASSERT(shape.kv.head_dim % 16 == 0 && shape.kv.head_dim <= 512);
  WEFT_ASSERT(shape.kv.group_size() <= 256);  // sums of products of codes fit 32 bit
  for (const AttentionCall& call : calls)
    WEFT_ASSERT((call.sees_all ? shape.window == 0 && (call.kv.length != 0 || call.num_tokens == 0)
                               : call.first_position + call.num_tokens <= call.kv.length) &&
                call.kv.length <= call.kv.pages.size() * kPageTokens);
}

}  // namespace

void attention(const AttentionShape& shape, std::span<const AttentionCall> calls,
               AttentionScratch& scratch, const CoreSet& cores) {
  check(shape, calls);
  size_t num_pieces = 0, total_cost = 0;
  for_each_tile(shape, calls, [&](const AttentionTile& tile) {
    num_pieces += tile.tile_spans;  // at most
    total_cost += tile.tile_spans * span_cost(tile);
  });
  // A tile that would keep one core busy while the others have nothing left is cut between spans.
  const size_t largest = cores.size() == 1 ? total_cost : total_cost / (cores.size() * 6);
  const auto spans_of_piece = [&](const AttentionTile& tile) {
    return std::max<size_t>(1, largest / span_cost(tile));
  };

  AttentionTile* const pieces = scratch.tiles.need(num_pieces);
  num_pieces = 0;
  size_t partial_floats = 0;
  for_each_tile(shape, calls, [&](const AttentionTile& tile) {
    const size_t spans = spans_of_piece(tile);
    for (size_t span = 0; span < tile.tile_spans; span += spans) {
      AttentionTile& piece = pieces[num_pieces++];
      piece = tile;
      piece.first_span = tile.first_span + span;
      piece.end_span = std::min(piece.first_span + spans, tile.end_span);
    }
    if (spans < tile.tile_spans)
      partial_floats += tile.tile_spans * state_floats(tile.num_rows(), shape.kv.head_dim);
  });
  float* partial = scratch.partial.need(partial_floats);
  for (size_t i = 0; i < num_pieces; ++i) {
    AttentionTile& piece = pieces[i];
    if (piece.end_span - piece.first_span == piece.tile_spans) continue;
    piece.partial = partial;
    if (piece.end_span == piece.tile_first_span + piece.tile_spans)
      partial += piece.tile_spans * state_floats(piece.num_rows(), shape.kv.head_dim);
  }

  const size_t core_size = core_floats(shape.kv.head_dim);
  float* const core_scratch = scratch.core.need(cores.size() * core_size);
  const auto attend = WEFT_DISPATCH(AttendTile);
  const auto merge = WEFT_DISPATCH(MergeTile);
  cores.parallel_for(num_pieces, 1, [&](size_t begin, size_t, size_t core) {
    attend(pieces[begin], core_scratch + core * core_size);
  });
  if (partial_floats == 0) return;
  cores.parallel_for(num_pieces, 64, [&](size_t begin, size_t end, size_t core) {
    for (size_t i = begin; i < end; ++i) {
      if (pieces[i].partial != nullptr && pieces[i].first_span == pieces[i].tile_first_span)
        merge(pieces[i], core_scratch + core * core_size);
    }
  });
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
