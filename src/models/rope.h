// Rotary position embedding as a checkpoint's hyper-parameters describe it: plain (arXiv
// 2104.09864), linear interpolation (arXiv 2306.15595), YaRN (arXiv 2309.00071) and Llama 3's
// divisors (the tensor rope_freqs.weight).
#pragma once

#include <cstddef>

#include "formats/checkpoint.h"
#include "kernels/elementwise.h"

namespace weft::models {

// For heads of `head_dim` values. kInvalidInput names the hyper-parameter and its range,
// kUnsupported an unknown scaling.
kernels::RopeTable read_rope(const formats::Checkpoint& checkpoint, size_t head_dim);

}  // namespace weft::models
