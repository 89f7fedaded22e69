// Tensor parallelism as everybody does it (Megatron-LM, arXiv 1909.08053): a product with this
// rank's columns, and then the sum over ranks.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "comm/communicator.h"
#include "models/teams.h"

namespace weft::parallel {

// Used by one engine thread: ranks meet in the order of its calls.
class PlainTeam : public models::TensorTeam {
 public:
  explicit PlainTeam(comm::Communicator ranks) : ranks_(std::move(ranks)) {}

  size_t rank() const override { return ranks_.rank(); }
  size_t size() const override { return ranks_.size(); }
  void multiply_add(const kernels::Linear& weight, kernels::Activations& x, const float* bias,
                    const models::Residual& residual, const CoreSet& cores) override;
  void gather(const float* part, size_t num_rows, size_t columns, float* all) override;

 protected:
  const comm::Communicator& ranks() const { return ranks_; }

 private:
  comm::Communicator ranks_;
  Scratch<float> product_;  // (rows, outputs)
  Scratch<float> parts_;    // of logits, one rank after the other
};

}  // namespace weft::parallel
