// The K-quants' quantiser: one super-block of 256 values each. Used by quantize.cc only.
#pragma once

#include "kernels/blocks.h"

namespace weft::kernels {

void quantize_block(const float* x, BlockQ2_K& block);
void quantize_block(const float* x, BlockQ3_K& block);
void quantize_block(const float* x, BlockQ4_K& block);
void quantize_block(const float* x, BlockQ5_K& block);
void quantize_block(const float* x, BlockQ6_K& block);

// f16 bits of a scale; kInvalidInput if it does not fit.
uint16_t scale_to_half(float scale);

}  // namespace weft::kernels
