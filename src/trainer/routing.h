// What a mixture's routers choose: how evenly experts are used, how often consecutive layers of a
// group and consecutive tokens choose the same ones (which is what a cache of experts lives on),
// and the loss that evens sequences out.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "train/model_shape.h"
#include "train/run_log.h"

namespace weft::trainer {

using at::Tensor;

// chosen (T, N) f32 everywhere: 1 for each expert that a token goes to; rows that hold no token are
// 0.
class RoutingCounts {
 public:
  explicit RoutingCounts(const train::ModelShape& shape, at::Device device);
  // Of mixture layer `index` (0: the first); layers of one pass in their order. follows (T): 1
  // where the row before is the token before.
  void add(size_t index, const Tensor& chosen, const Tensor& follows);
  // Of each mixture layer. Waits for the device.
  std::vector<train::LayerRouting> layers() const;

 private:
  size_t first_layer_, layers_per_group_;
  Tensor loads_;         // (L, N)
  Tensor layer_before_;  // (L): choices that the layer before of the group made, too
  Tensor token_before_;  // (L)
  Tensor following_;     // (L): choices of tokens that have one before
  Tensor previous_;      // `chosen` of the layer before
};

// Sequence-wise auxiliary loss (DeepSeek-V3, section 2.1.2): mean over sequences of sum over
// experts of f * P, f the part of the sequence's choices that fell on an expert, times N, P the
// mean of its share of the scores. 1 where both are even. scores (T, N) positive; sequence (T) i64
// from 0 to num_sequences - 1.
Tensor sequence_balance(const Tensor& scores, const Tensor& chosen, const Tensor& is_token,
                        const Tensor& sequence, int64_t num_sequences, int64_t per_token);

}  // namespace weft::trainer
