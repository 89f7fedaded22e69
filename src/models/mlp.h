// SwiGLU (arXiv 2002.05202), of width F: Wdown (silu(Wgate x) * Wup x). A layer's MLP or an expert.
#pragma once

#include "kernels/linear.h"

namespace weft::models {

struct Mlp {
  kernels::Linear gate, up;  // (F, E)
  kernels::Linear down;      // (E, F)

  size_t packed_bytes() const {
    return gate.packed_bytes() + up.packed_bytes() + down.packed_bytes();
  }
};

}  // namespace weft::models
