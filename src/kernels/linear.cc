#include "kernels/linear.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/error.h"
#include "kernels/isa.h"
#include "kernels/panel_layout.h"
#include "kernels/targets.h"
#include "kernels/tiled_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear.cc"
#include "hwy/foreach_target.h"
#include "kernels/linear-inl.h"

#if HWY_ONCE
namespace weft::kernels {
HWY_EXPORT(MakeTileKernels);

namespace {

const TileKernels& tile_kernels() {
  // One table for each instruction set, made on first use; tests force another set between calls.
  static const std::array<TileKernels, 3> tables = [] {
    std::array<TileKernels, 3> made;
    const Isa chosen = active_isa();
    for (const Isa isa : available_isas()) {
      force_isa(isa);
      made[static_cast<size_t>(isa)] = HWY_DYNAMIC_DISPATCH(MakeTileKernels)();
    }
    force_isa(chosen);
    return made;
  }();
  return tables[static_cast<size_t>(active_isa())];
}

// A piece of a multiply(): a run of panels of one call and a run of row tiles.
struct Grid {
  size_t panels_per_piece, tiles_per_piece;
  size_t panel_pieces, tile_pieces;
};

// Pieces small enough to share out evenly, large enough that handing them out costs nothing, and
// shaped so that a run of panels stays in the second-level cache while row tiles pass over it.
Grid cut(const Linear& weight, size_t num_tiles, size_t cores) {
  constexpr size_t kPieceBytes = 256 << 10;
  const size_t panel_bytes = weight.packed_bytes() / weight.num_panels();
  const size_t even_share = std::max<size_t>(1, weight.num_panels() / (cores * 6));
  const size_t fitting = std::max<size_t>(1, kPieceBytes / panel_bytes);
  Grid grid{};
  grid.panels_per_piece = std::min(even_share, fitting);
  // Float kernels take up to 8 panels side by side.
  if (!is_block_quantised(weight.dtype()) && num_tiles <= 2)
    grid.panels_per_piece = std::min((grid.panels_per_piece + 7) / 8 * 8, weight.num_panels());
  grid.tiles_per_piece = std::min<size_t>(num_tiles, 16);
  grid.panel_pieces = (weight.num_panels() + grid.panels_per_piece - 1) / grid.panels_per_piece;
  grid.tile_pieces = (num_tiles + grid.tiles_per_piece - 1) / grid.tiles_per_piece;
  return grid;
}

// The row tiles [first_tile, end_tile) times `num_outputs` outputs from a panel's first on.
void multiply_tiles(const LinearCall& call, const Activations& x, size_t first_tile,
                    size_t end_tile, size_t first_panel, size_t num_outputs) {
  const Linear& weight = *call.weight;
  const auto& kernels = tile_kernels().multiply[static_cast<size_t>(weight.dtype())];
  const size_t first_row = row_tile(x.num_rows(), first_tile).first_row;
  for (size_t t = first_tile; t < end_tile; ++t) {
    const RowTile tile = row_tile(x.num_rows(), t);
    kernels[std::countr_zero(tile.num_rows)]({
        .panels = weight.panel(first_panel),
        .panel_bytes = panel_bytes(weight.dtype(), weight.in_features()),
        .num_panels = (num_outputs + kPanelOutputs - 1) / kPanelOutputs,
        .num_outputs = num_outputs,
        .in_features = weight.in_features(),
        .x = x.tile(weight.activation_kind(), tile.first_row),
        .out = call.out + (tile.first_row - first_row) * call.out_stride,
        .out_stride = call.out_stride,
        .bias = call.bias,
        .accumulate = call.accumulate,
        .ask_ahead = asks_ahead(),
    });
  }
}

void multiply_piece(const LinearCall& call, const Activations& x, const Grid& grid, size_t piece) {
  const Linear& weight = *call.weight;
  const size_t first_panel = piece % grid.panel_pieces * grid.panels_per_piece;
  const size_t first_output = first_panel * kPanelOutputs;
  const size_t first_tile = piece / grid.panel_pieces * grid.tiles_per_piece;
  const size_t end_tile = std::min(first_tile + grid.tiles_per_piece, num_row_tiles(x.num_rows()));
  LinearCall part = call;
  part.out += row_tile(x.num_rows(), first_tile).first_row * call.out_stride + first_output;
  if (part.bias != nullptr) part.bias += first_output;
  multiply_tiles(
      part, x, first_tile, end_tile, first_panel,
      std::min(grid.panels_per_piece * kPanelOutputs, weight.out_features() - first_output));
}

// Bytes of one row in a tile.
size_t tile_row_bytes(ActivationKind kind, size_t features) {
  switch (kind) {
    case ActivationKind::kInt8:
      return features / kBlockFeatures * sizeof(QuantisedBlock);
    case ActivationKind::kBF16:
      return (features + 1) / 2 * 4;
    case ActivationKind::kF32:
      return features * 4;
  }
  return 0;
}

}  // namespace

void Activations::set(const float* x, size_t num_rows, size_t features, size_t stride) {
  x_ = x;
  num_rows_ = num_rows;
  features_ = features;
  stride_ = stride;
  std::fill(std::begin(prepared_), std::end(prepared_), false);
}

void Activations::prepare(ActivationKind kind, const CoreSet& cores) {
  bool& prepared = prepared_[static_cast<size_t>(kind)];
  if (prepared) return;
  prepared = true;
  const size_t row_bytes = tile_row_bytes(kind, features_);
  uint8_t* tiles = nullptr;
  ConvertTile convert = nullptr;
  switch (kind) {
    case ActivationKind::kInt8:
      tiles = int8_.need(num_rows_ * row_bytes);
      convert = tile_kernels().to_int8;
      break;
    case ActivationKind::kBF16:
      tiles = reinterpret_cast<uint8_t*>(bf16_.need(num_rows_ * row_bytes / 2));
      convert = tile_kernels().to_bf16;
      break;
    case ActivationKind::kF32:
      tiles = reinterpret_cast<uint8_t*>(f32_.need(num_rows_ * features_));
      convert = tile_kernels().to_f32;
      break;
  }
  // A few rows convert faster than a second core wakes.
  constexpr size_t kTilesPerPiece = 2;
  cores.parallel_for(num_row_tiles(num_rows_), kTilesPerPiece,
                     [&](size_t begin, size_t end, size_t) {
                       for (size_t t = begin; t < end; ++t) {
                         const RowTile tile = row_tile(num_rows_, t);
                         convert(x_ + tile.first_row * stride_, stride_, features_, tile.num_rows,
                                 tiles + tile.first_row * row_bytes);
                       }
                     });
}

const void* Activations::tile(ActivationKind kind, size_t first_row) const {
  const size_t offset = first_row * tile_row_bytes(kind, features_);
  switch (kind) {
    case ActivationKind::kInt8:
      return int8_.data() + offset;
    case ActivationKind::kBF16:
      return reinterpret_cast<const uint8_t*>(bf16_.data()) + offset;
    case ActivationKind::kF32:
      return reinterpret_cast<const uint8_t*>(f32_.data()) + offset;
  }
  return nullptr;
}

namespace {

// x_of(call): its activations.
template <typename Which>
void multiply_all(std::span<const LinearCall> calls, const CoreSet& cores, Which&& x_of) {
  WEFT_ASSERT(calls.size() <= kMaxLinearCalls);
  std::array<Grid, kMaxLinearCalls> grids;
  std::array<size_t, kMaxLinearCalls + 1> first_piece{};
  for (size_t c = 0; c < calls.size(); ++c) {
    Activations& x = x_of(calls[c]);
    WEFT_ASSERT(calls[c].weight->in_features() == x.features());
    x.prepare(calls[c].weight->activation_kind(), cores);
    grids[c] = cut(*calls[c].weight, num_row_tiles(x.num_rows()), cores.size());
    first_piece[c + 1] = first_piece[c] + grids[c].panel_pieces * grids[c].tile_pieces;
  }
  cores.parallel_for(first_piece[calls.size()], 1, [&](size_t begin, size_t end, size_t) {
    for (size_t piece = begin; piece < end; ++piece) {
      size_t c = 0;
      while (piece >= first_piece[c + 1]) ++c;
      multiply_piece(calls[c], x_of(calls[c]), grids[c], piece - first_piece[c]);
    }
  });
}

}  // namespace

void multiply(std::span<const LinearCall> calls, Activations& x, const CoreSet& cores) {
  if (x.num_rows() == 0) return;
  multiply_all(calls, cores, [&](const LinearCall&) -> Activations& { return x; });
}

void multiply(std::span<const LinearCall> calls, const CoreSet& cores) {
  multiply_all(calls, cores, [](const LinearCall& call) -> Activations& { return *call.x; });
}

ProductTiling preferred_tiling(const Linear& weight, size_t num_rows, size_t cores) {
  const Grid grid = cut(weight, num_row_tiles(num_rows), cores);
  return {grid.tiles_per_piece * 8, grid.panels_per_piece * kPanelOutputs};
}

void multiply_tile(const Linear& weight, const Activations& x, const ProductTile& tile, float* out,
                   size_t out_stride) {
  WEFT_DCHECK(tile.first_row % 8 == 0 && tile.first_output % kPanelOutputs == 0);
  const size_t first_tile = tile.first_row / 8;
  size_t end_tile = first_tile;
  for (size_t row = tile.first_row; row < tile.first_row + tile.num_rows; ++end_tile)
    row += row_tile(x.num_rows(), end_tile).num_rows;
  multiply_tiles({.weight = &weight, .out = out, .out_stride = out_stride}, x, first_tile, end_tile,
                 tile.first_output / kPanelOutputs, tile.num_outputs);
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
