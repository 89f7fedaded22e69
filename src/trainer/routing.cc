#include "trainer/routing.h"

#include <ATen/core/grad_mode.h>

namespace weft::trainer {

RoutingCounts::RoutingCounts(const train::ModelShape& shape, at::Device device)
    : first_layer_(shape.first_dense), layers_per_group_(shape.layers_per_group) {
  const auto layers = static_cast<int64_t>(shape.num_moe_layers());
  const auto options = at::TensorOptions().dtype(at::kDouble).device(device);
  loads_ = at::zeros({layers, static_cast<int64_t>(shape.num_experts)}, options);
  layer_before_ = at::zeros({layers}, options);
  token_before_ = at::zeros({layers}, options);
  following_ = at::zeros({layers}, options);
}

void RoutingCounts::add(size_t index, const Tensor& chosen, const Tensor& follows) {
  const at::NoGradGuard no_grad;
  const auto layer = static_cast<int64_t>(index);
  const int64_t rows = chosen.size(0);
  loads_[layer] += chosen.sum(0);
  if (index % layers_per_group_ != 0) layer_before_[layer] += (chosen * previous_).sum();
  const Tensor later = chosen.narrow(0, 1, rows - 1) * follows.narrow(0, 1, rows - 1).unsqueeze(1);
  token_before_[layer] += (later * chosen.narrow(0, 0, rows - 1)).sum();
  following_[layer] += later.sum();
  previous_ = chosen;
}

std::vector<train::LayerRouting> RoutingCounts::layers() const {
  const Tensor loads = loads_.to(at::kCPU);
  const Tensor sums = at::stack({loads.sum(1), layer_before_.to(at::kCPU),
                                 token_before_.to(at::kCPU), following_.to(at::kCPU)});
  std::vector<train::LayerRouting> out;
  for (int64_t i = 0; i < loads.size(0); ++i) {
    const auto sum = [&](int64_t row) { return sums[row][i].item<double>(); };
    const double mean = sum(0) / static_cast<double>(loads.size(1));
    train::LayerRouting& layer = out.emplace_back();
    layer.layer = first_layer_ + static_cast<size_t>(i);
    layer.fullest = loads[i].max().item<double>() / mean;
    layer.emptiest = loads[i].min().item<double>() / mean;
    if (static_cast<size_t>(i) % layers_per_group_ != 0) layer.as_layer_before = sum(1) / sum(0);
    layer.as_token_before = sum(2) / sum(3);
  }
  return out;
}

Tensor sequence_balance(const Tensor& scores, const Tensor& chosen, const Tensor& is_token,
                        const Tensor& sequence, int64_t num_sequences, int64_t per_token) {
  const Tensor real = is_token.to(scores.scalar_type()).unsqueeze(1);
  const auto of_sequences = [&](const Tensor& rows) {
    return at::zeros({num_sequences, rows.size(1)}, scores.options())
        .index_add(0, sequence, rows.to(scores.scalar_type()));
  };
  const Tensor tokens = of_sequences(real);  // (S, 1)
  const Tensor per_mean = tokens.clamp_min(1).reciprocal();
  const Tensor share = of_sequences(scores / scores.sum(1, true) * real) * per_mean;
  const Tensor part = of_sequences(chosen) * per_mean *
                      (static_cast<double>(chosen.size(1)) / static_cast<double>(per_token));
  return (part * share).sum() / tokens.clamp_max(1).sum().clamp_min(1);
}

}  // namespace weft::trainer
