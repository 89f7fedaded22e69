// Rows of weights in every format, to and from f32. This is the reference path: plain loops,
// bit-exact with the `gguf` package (ggml's formats), used for loading, `weft quantize`, tests, and
// single rows (embeddings). The fast products live in linear.h; the block layouts are drawn in
// blocks.h.
//
// Pure functions: any number of threads may work on different rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace weft::kernels {

// `n` values from `src` (n a multiple of the block, asserted) into f32. No alignment is required of
// src. `type` must be a weight type (traits(type).is_weight, asserted).
void dequantize(DType type, const void* src, float* dst, size_t n);

// The other way. The plain formats and those of 32 values equal the `gguf` package's bit for bit;
// the K-quants, of which it has none, search for each sub-block's scale by least squares and end
// with a smaller squared error than ggml's own (quantize_test.cc compares). kInvalidInput: a value
// that is not finite, or too large for the format (f16 scales end at 65504).
void quantize(DType type, const float* src, void* dst, size_t n);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);  // round to nearest even; NaN stays NaN
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);  // round to nearest even; NaN stays NaN

}  // namespace weft::kernels
