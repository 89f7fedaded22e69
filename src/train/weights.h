// A model's weights in the flat buffer of its ParameterTable: made at random, or taken from files.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/checkpoint.h"
#include "train/model_shape.h"

namespace weft::train {

struct Weights {
  std::vector<float> values;       // (table.size), gaps 0
  std::vector<float> router_bias;  // (num_moe_layers, num_experts)
};

// The same for the same seed, whatever the machine.
Weights random_weights(const ModelShape& shape, const ParameterTable& table, uint64_t seed);
// Block formats are dequantised, Llama's q and k brought from GGUF's order into Hugging Face's.
// kInvalidInput names a missing or misshapen tensor.
Weights read_weights(const formats::Checkpoint& checkpoint, const ModelShape& shape,
                     const ParameterTable& table);

}  // namespace weft::train
