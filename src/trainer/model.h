// The language models in libtorch, with gradients: the forward pass of models/llama.cc and
// models/megrez2.cc, whose weights it shares through train/model_shape.h's flat buffer.
#pragma once

#include <ATen/ATen.h>

#include <span>
#include <vector>

#include "train/batch.h"
#include "train/model_shape.h"
#include "train/weights.h"
#include "trainer/functions.h"
#include "trainer/routing.h"

namespace weft::trainer {

// A batch on the device.
struct Inputs {
  Tensor tokens;    // (T) i64
  Tensor wanted;    // (W) i64, rows with a target
  Tensor targets;   // (W) i64
  // Of mixtures alone, (T) f32: 0 where a sequence is filled up; 1 where the row before is the
  // token before.
  Tensor is_token, follows;
  RotationAngles angles;
  std::vector<train::Bucket> buckets;
  int64_t num_targets() const { return targets.size(0); }
};

// E = hidden_size, H query heads, G heads of keys and values, D = head_dim; F = an MLP's width; N
// experts.
struct MlpWeights {
  Tensor gate_up;  // (2F, E)
  Tensor down;     // (E, F)
};
struct LayerWeights {
  Tensor attention_norm;  // (E)
  Tensor qkv;             // ((H + 2G) * D, E)
  Tensor qkv_bias;        // ((H + 2G) * D), where the model has them
  Tensor q_norm, k_norm;  // (D), where the model has them
  Tensor out;             // (E, H * D)
  Tensor mlp_norm;        // (E)
  MlpWeights mlp;         // dense; of a mixture's layer: the shared expert, if any
  Tensor router;          // (N, E), of a mixture's layer
};

class Model {
 public:
  // `type` of products: bf16 or f32; f64 makes everything f64 (for finite differences).
  Model(train::ModelShape shape, const train::Weights& weights, at::Device device,
        at::ScalarType type);

  const train::ModelShape& shape() const { return shape_; }
  const train::ParameterTable& table() const { return table_; }
  at::Device device() const { return master_.device(); }

  // All parameters, f32, in the table's order; who changes them calls refresh().
  Tensor& master() { return master_; }
  void refresh();
  Tensor& router_bias() { return router_bias_; }  // (num_moe_layers, N) f32

  Inputs to_device(const train::Batch& batch) const;
  // (T, E) after the last norm, in the type of products.
  Tensor forward(const Inputs& inputs);
  // scale * sum of the targets' negative log likelihoods. With `balance`: also sets it to the sum
  // of mixture layers' sequence_balance (trainer/routing.h).
  Tensor loss(const Inputs& inputs, double scale, Tensor* balance = nullptr);
  Tensor logits(const Inputs& inputs);  // (T, V)

  // Adds the gradients of the passes since the last call to `flat` (as master), and forgets them.
  void collect_gradients(Tensor& flat);
  // (num_moe_layers, N): tokens that went to each expert since the last call.
  Tensor take_loads();
  // From now on choices are counted there, and not among the loads; null: no longer.
  void count_routing(RoutingCounts* counts) { counts_ = counts; }

 private:
  struct Leaf {
    Tensor tensor;
    int64_t offset, size;
  };
  Tensor leaf(const std::string& first_name, std::vector<int64_t> shape);
  MlpWeights read_mlp(const std::string& prefix, size_t width);
  Tensor mlp(const MlpWeights& weights, const Tensor& normed) const;
  Tensor mixture(const LayerWeights& layer, const ExpertWeights& experts, size_t index,
                 const Tensor& normed, const Tensor& gate_input, const Inputs& inputs);
  Tensor head() const { return shape_.tied ? embedding_ : lm_head_; }

  train::ModelShape shape_;
  train::ParameterTable table_;
  HeadCounts heads_;
  at::ScalarType type_;
  Tensor master_;     // (table.size)
  Tensor low_;        // (table.first_vector) in the type of products; master_ itself where alike
  Tensor router_bias_, loads_;
  RoutingCounts* counts_ = nullptr;  // see count_routing
  struct Balance {
    Tensor sequence;  // (T) i64, that each row is of
    int64_t num_sequences = 0;
    Tensor sum;  // over layers
  };
  Balance* balance_ = nullptr;  // of the pass, where its loss is asked for
  std::vector<Leaf> leaves_;
  Tensor embedding_, lm_head_, final_norm_;
  std::vector<LayerWeights> layers_;
  std::vector<ExpertWeights> experts_;  // of each group of layers
};

}  // namespace weft::trainer
