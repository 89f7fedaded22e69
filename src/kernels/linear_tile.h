// The inner kernels of linear.cc: one tile of up to 8 rows of x times a run of panels. Chosen at
// run time for the instruction set; each is written once in linear-inl.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace weft::kernels {

struct TileCall {
  const uint8_t* panels = nullptr;  // the first of a run
  size_t panel_bytes = 0;
  size_t num_panels = 0;
  size_t num_outputs = 0;  // real outputs in the run; fewer than 16 in the last panel
  size_t in_features = 0;
  const void* x = nullptr;  // a row tile in the format's activation kind
  float* out = nullptr;     // first row, first output of the run
  size_t out_stride = 0;
  const float* bias = nullptr;  // of the first output, or none
  bool accumulate = false;
  bool ask_ahead = false;  // asks_ahead()
};

using TileKernel = void (*)(const TileCall&);

// Converts rows [first_row, first_row + tile rows) of x into a tile.
using ConvertTile = void (*)(const float* x, size_t stride, size_t features, size_t tile_rows,
                             void* tile);

struct TileKernels {
  // [dtype][log2 of the tile's rows: 1, 2, 4, 8]
  std::array<std::array<TileKernel, 4>, static_cast<size_t>(DType::kQ6_K) + 1> multiply{};
  ConvertTile to_int8 = nullptr, to_bf16 = nullptr, to_f32 = nullptr;
};

}  // namespace weft::kernels
