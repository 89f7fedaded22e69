// A product y = x W^T tile by tile, for those who must know when a part of y is there (FlashOverlap
// sends it while the rest is computed). Bit for bit what multiply() computes.
#pragma once

#include <cstddef>

#include "kernels/linear.h"

namespace weft::kernels {

// What the tiles of a product should be for it to run as fast as in multiply(): a band of rows that
// is a multiple of 8, a run of outputs that is a multiple of 16.
struct ProductTiling {
  size_t rows = 0, outputs = 0;
};
ProductTiling preferred_tiling(const Linear& weight, size_t num_rows, size_t cores);

struct ProductTile {
  size_t first_row = 0, num_rows = 0;        // first_row: a multiple of 8
  size_t first_output = 0, num_outputs = 0;  // first_output: a multiple of 16
};

// Computes the tile on the calling thread into `out`, `out_stride` values from row to row. x has been
// prepared for the weight's activation kind; several threads may compute tiles at once. A tile that is
// not the product's last ends at a multiple of 8 rows and of 16 outputs.
void multiply_tile(const Linear& weight, const Activations& x, const ProductTile& tile, float* out,
                   size_t out_stride);

}  // namespace weft::kernels
