// Which number format each tensor of a quantised model gets. The mixes are those that GGUF users
// know by name ("Q4_K_M"): tensors that hurt most when coarse (the head, the values' projection,
// the MLP's way down, in some layers) get more bits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/dtype.h"
#include "base/tensor.h"

namespace weft::formats {

struct QuantMix {
  const char* name;    // as tools print it, "q4_K_M"
  uint32_t file_type;  // general.file_type
  DType base;          // what most matrices get
};

std::span<const QuantMix> quant_mixes();
// Case does not matter; "q4_K" means "q4_K_M". kInvalidInput lists the known ones.
const QuantMix& quant_mix(std::string_view name);

struct QuantMixModel {
  size_t num_layers = 0;
  size_t queries_per_kv_head = 1;
  bool has_output = false;  // a head of its own; else the embedding is the head as well
};

// Matrices named *.weight get a type of the mix; norms, biases and other vectors f32. Where a row
// is not a whole number of the type's blocks, the next larger type with blocks of 32 takes its
// place (q4_K: q5_0, q5_K: q5_1, q6_K: q8_0, q2_K and q3_K: q4_0), and f16 where that does not
// divide either.
DType mixed_type(const QuantMix& mix, const QuantMixModel& model, std::string_view tensor,
                 const Shape& shape);

}  // namespace weft::formats
