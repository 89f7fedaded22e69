// What a model is made of, for training: hyper-parameters, and the table of all its parameters as
// they lie in one flat buffer of f32.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "formats/checkpoint.h"
#include "kernels/elementwise.h"
#include "train/config.h"

namespace weft::train {

struct ModelShape {
  std::string architecture;  // as GGUF calls it: llama, qwen2, qwen3, megrez-moe, dots1
  size_t vocab_size = 0, num_layers = 0, hidden_size = 0, context_length = 0;
  size_t num_heads = 0, num_kv_heads = 0, head_dim = 0, intermediate_size = 0;
  size_t sliding_window = 0;  // tokens; 0 = all
  bool tied = false, has_qkv_bias = false, has_qk_norm = false;
  float norm_epsilon = 1e-5f;
  double rope_theta = 10000;
  kernels::RopeTable rope;  // of whole heads
  // Of a mixture; num_experts = 0: none.
  size_t num_experts = 0, experts_per_token = 0, expert_width = 0, shared_width = 0;
  size_t first_dense = 0, layers_per_group = 1;
  bool pre_gate = false, normalise_weights = true;
  double weights_scale = 1;

  size_t q_size() const { return num_heads * head_dim; }
  size_t kv_size() const { return num_kv_heads * head_dim; }
  bool is_moe(size_t layer) const { return num_experts != 0 && layer >= first_dense; }
  size_t num_moe_layers() const { return num_experts == 0 ? 0 : num_layers - first_dense; }
  size_t leader(size_t layer) const {  // the layer that holds a MoE layer's experts
    return first_dense + (layer - first_dense) / layers_per_group * layers_per_group;
  }
};

// Of the config's `model`; context_length = the config's context.
ModelShape shape_of(const Config& config, size_t vocab_size);
// Of an existing model. kUnsupported for what cannot be trained (groups of experts).
ModelShape shape_of(const formats::Checkpoint& checkpoint);

enum class InitialValue : uint8_t { kNormal, kZero, kOne };

struct Parameter {
  std::string name;  // Hugging Face's
  Shape shape;
  size_t offset = 0;  // of its first value in the flat buffer
  InitialValue initial = InitialValue::kNormal;
  float deviation = 0.02f;  // of kNormal

  size_t size() const { return shape.elements(); }
};

// All parameters in the order of the flat buffer. First the matrices of products, which are decayed
// and multiplied in low precision; then, from `first_vector` on, norms, biases and routers. q, k
// and v of a layer lie side by side, and so do gate and up of an MLP, and the matrices of a group's
// experts: products can take them together.
struct ParameterTable {
  std::vector<Parameter> parameters;
  size_t first_vector = 0;  // offset
  size_t size = 0;          // values of the buffer, with gaps that hold 0

  const Parameter& at(const std::string& name) const;  // asserts that it is there
  size_t count() const;                                // parameters, without gaps
};
ParameterTable parameters_of(const ModelShape& shape);
// The bias that balances the load of experts, one row of num_experts for each MoE layer: no
// parameter, since no gradient reaches it.
std::string router_bias_name(size_t layer);

// config.json of the model.
nlohmann::ordered_json hf_config(const ModelShape& shape, const formats::Checkpoint* from,
                                 bool is_bf16);

}  // namespace weft::train
