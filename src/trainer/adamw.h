// AdamW (arXiv 1711.05101) over one flat buffer of parameters. A step whose gradient is no number
// changes nothing; whether that was so stays on the device until somebody asks.
#pragma once

#include <ATen/ATen.h>

namespace weft::trainer {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;  // as language models are trained (Llama)
  double weight_decay = 0.1;                         // of the first `decayed` values
  double clip = 1;                                   // largest norm of the gradient; 0: any
  int64_t decayed = 0;
};

class AdamW {
 public:
  AdamW(const at::Tensor& parameters, const AdamWOptions& options);

  // Changes `parameters`; uses `gradient` up. Returns (2) f32 on the device: the gradient's norm
  // before clipping, and 1 if it was finite.
  at::Tensor step(at::Tensor& parameters, at::Tensor& gradient, double rate);

  // The state, for checkpoints.
  at::Tensor& mean() { return mean_; }
  at::Tensor& square() { return square_; }
  int64_t& steps() { return steps_; }

 private:
  AdamWOptions options_;
  at::Tensor mean_, square_;  // of gradients and of their squares
  int64_t steps_ = 0;
};

}  // namespace weft::trainer
