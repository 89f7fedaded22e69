// What row_sketch.cc hands to its kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/row_sketch.h"

namespace weft::kernels {

struct SketchScan {
  const uint8_t* panels;
  size_t panel_bytes, num_rows, features;
  const int8_t* x;
  int32_t sum_x;  // of x
  float step;     // of x
  float offset;   // the mean row's product
  float reach;    // what deviations are multiplied by
  float threshold;
  bool asks_ahead;
};

// How 16 rows are turned: Hadamard matrices along `num_blocks` blocks, `factor` what makes all of
// it orthonormal.
struct SketchPack {
  size_t num_blocks, block;
  float factor;
};

// Of each row of a panel.
struct SketchSums {
  float inverse_steps[16];  // in
  float products[16],
      code_squares[16];  // out: of codes with what they stand for, and with themselves
};

// One stream of reading, a panel or two ahead of the products (linear-inl.h has figures).
inline constexpr size_t kSketchPrefetchBytes = 2048;

}  // namespace weft::kernels
