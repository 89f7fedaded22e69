// Rows of weights in every format, to and from f32. This is the reference path: scalar, bit-exact with
// the `gguf` package (ggml's formats), used for loading, `weft quantize`, tests, and single rows
// (embeddings). The fast products live in linear.h.
#pragma once

#include <cstddef>

#include "base/dtype.h"

namespace weft::kernels {

// `n` values from `src` (n a multiple of the block, asserted) into f32. No alignment is required of src.
void dequantize(DType type, const void* src, float* dst, size_t n);

// The other way, round to nearest as ggml's reference quantiser does. Non-finite input: kInvalidInput.
void quantize(DType type, const float* src, void* dst, size_t n);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);       // round to nearest even
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);   // round to nearest even; NaN stays NaN

}  // namespace weft::kernels
