#include "trainer/model.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace weft::trainer {
namespace {

int64_t i64(size_t value) { return static_cast<int64_t>(value); }

// A copy of host values on the device.
template <typename T>
Tensor copy_to(const std::vector<T>& values, at::ScalarType type, at::Device device) {
  const Tensor host = at::from_blob(const_cast<T*>(values.data()), {i64(values.size())},
                                    at::TensorOptions().dtype(type));
  return device.is_cpu() ? host.clone() : host.to(device);
}

// On a GPU, experts that are no wider than this together are computed for all rows: see
// all_experts.
constexpr int64_t kWidthOfAllExperts = 8192;

std::string block(size_t layer) { return fmt::format("model.layers.{}.", layer); }

}  // namespace

Model::Model(train::ModelShape shape, const train::Weights& weights, at::Device device,
             at::ScalarType type)
    : shape_(std::move(shape)), table_(train::parameters_of(shape_)), type_(type) {
  const auto& s = shape_;
  heads_ = {i64(s.num_heads), i64(s.num_kv_heads), i64(s.head_dim), i64(s.sliding_window)};
  const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
  WEFT_ASSERT(weights.values.size() == table_.size);
  master_ = copy_to(weights.values, at::kFloat, device).to(wide);
  low_ = type == wide ? master_.narrow(0, 0, i64(table_.first_vector))
                      : master_.narrow(0, 0, i64(table_.first_vector)).to(type);
  router_bias_ = copy_to(weights.router_bias, at::kFloat, device)
                     .view({i64(s.num_moe_layers()), i64(s.num_experts)});
  loads_ = at::zeros_like(router_bias_);

  const int64_t e = i64(s.hidden_size), d = i64(s.head_dim), v = i64(s.vocab_size);
  const int64_t qkv = i64(s.q_size() + 2 * s.kv_size());
  embedding_ = leaf("model.embed_tokens.weight", {v, e});
  if (!s.tied) lm_head_ = leaf("lm_head.weight", {v, e});
  final_norm_ = leaf("model.norm.weight", {e});
  for (size_t i = 0; i < s.num_layers; ++i) {
    LayerWeights& layer = layers_.emplace_back();
    const std::string attention = block(i) + "self_attn.";
    layer.attention_norm = leaf(block(i) + "input_layernorm.weight", {e});
    layer.qkv = leaf(attention + "q_proj.weight", {qkv, e});
    if (s.has_qkv_bias) layer.qkv_bias = leaf(attention + "q_proj.bias", {qkv});
    if (s.has_qk_norm) {
      layer.q_norm = leaf(attention + "q_norm.weight", {d});
      layer.k_norm = leaf(attention + "k_norm.weight", {d});
    }
    layer.out = leaf(attention + "o_proj.weight", {e, i64(s.q_size())});
    layer.mlp_norm = leaf(block(i) + "post_attention_layernorm.weight", {e});
    if (!s.is_moe(i)) {
      layer.mlp = read_mlp(block(i) + "mlp.", s.intermediate_size);
      continue;
    }
    if (s.shared_width != 0) layer.mlp = read_mlp(block(i) + "mlp.shared_experts.", s.shared_width);
    const int64_t n = i64(s.num_experts), x = i64(s.expert_width);
    layer.router = leaf(block(i) + "mlp.gate.weight", {n, e});
    if (s.leader(i) != i) continue;
    const std::string first = block(i) + "mlp.experts.0.";
    experts_.push_back({leaf(first + "gate_proj.weight", {n, 2 * x, e}),
                        leaf(first + "down_proj.weight", {n, e, x})});
  }
  std::sort(leaves_.begin(), leaves_.end(),
            [](const Leaf& a, const Leaf& b) { return a.offset < b.offset; });
}

// What begins with the named parameter and lies side by side with it.
Tensor Model::leaf(const std::string& first_name, std::vector<int64_t> shape) {
  const int64_t offset = i64(table_.at(first_name).offset);
  int64_t size = 1;
  for (const int64_t dim : shape) size *= dim;
  const Tensor& buffer = offset < i64(table_.first_vector) ? low_ : master_;
  const Tensor tensor = buffer.narrow(0, offset, size).view(shape).detach().requires_grad_(true);
  leaves_.push_back({tensor, offset, size});
  return tensor;
}

MlpWeights Model::read_mlp(const std::string& prefix, size_t width) {
  const int64_t e = i64(shape_.hidden_size), f = i64(width);
  return {leaf(prefix + "gate_proj.weight", {2 * f, e}), leaf(prefix + "down_proj.weight", {e, f})};
}

void Model::refresh() {
  const at::NoGradGuard no_grad;
  if (type_ != master_.scalar_type()) low_.copy_(master_.narrow(0, 0, i64(table_.first_vector)));
}

Inputs Model::to_device(const train::Batch& batch) const {
  Inputs in;
  in.tokens = copy_to(batch.tokens, at::kInt, device()).to(at::kLong);
  in.wanted = copy_to(batch.wanted, at::kLong, device());
  in.targets = copy_to(batch.targets, at::kLong, device());
  in.buckets = batch.buckets;
  const size_t half = shape_.head_dim / 2;
  std::vector<float> cos(batch.longest * 2 * half), sin(cos.size());
  std::vector<float> angles(2 * half);
  for (size_t position = 0; position < batch.longest; ++position) {
    kernels::rope_angles(shape_.rope, position, angles.data());
    for (size_t i = 0; i < half; ++i) {
      float* const c = cos.data() + position * 2 * half;
      float* const s = sin.data() + position * 2 * half;
      c[i] = c[half + i] = angles[i];
      s[half + i] = angles[half + i];
      s[i] = -s[half + i];
    }
  }
  const Tensor positions = copy_to(batch.positions, at::kInt, device()).to(at::kLong);
  if (shape_.num_experts != 0) {
    in.is_token = copy_to(batch.is_token, at::kByte, device()).to(at::kFloat);
    in.follows = in.is_token * (positions > 0);
  }
  const auto rows_of = [&](const std::vector<float>& table) {
    return copy_to(table, at::kFloat, device())
        .to(master_.scalar_type())
        .view({i64(batch.longest), 1, i64(2 * half)})
        .index_select(0, positions);
  };
  in.angles = {rows_of(cos), rows_of(sin)};
  return in;
}

Tensor Model::mlp(const MlpWeights& weights, const Tensor& normed) const {
  return at::linear(swiglu(at::linear(normed, weights.gate_up)), weights.down);
}

// sum over the token's experts of weight * expert(normed), plus the shared expert of normed. The
// router reads gate_input, in f32.
Tensor Model::mixture(const LayerWeights& layer, const ExpertWeights& experts, size_t index,
                      const Tensor& normed, const Tensor& gate_input, const Inputs& inputs) {
  const int64_t rows = normed.size(0), n = i64(shape_.num_experts);
  const int64_t k = i64(shape_.experts_per_token);
  const Tensor scores = at::linear(gate_input, layer.router).sigmoid();  // (T, N)
  Tensor ids;                                                            // (T, k), ascending
  Tensor chosen;                                                         // (T, N)
  {
    const at::NoGradGuard no_grad;
    const Tensor choosing = scores + router_bias_[i64(index)];  // the bias chooses, and no more
    ids = std::get<0>(std::get<1>(choosing.topk(k, 1, true, false)).sort(1));
    const Tensor real = inputs.is_token.unsqueeze(1).expand({rows, k});
    chosen = at::zeros({rows, n}, real.options()).scatter_(1, ids, real);
    if (counts_ != nullptr)
      counts_->add(index, chosen, inputs.follows);
    else
      loads_[i64(index)] += chosen.sum(0);
  }
  if (balance_ != nullptr)
    balance_->sum =
        balance_->sum + sequence_balance(scores, chosen, inputs.is_token, balance_->sequence,
                                         balance_->num_sequences, k);
  Tensor weights = scores.gather(1, ids);  // (T, k)
  if (shape_.normalise_weights) weights = weights / (weights.sum(1, true) + 1e-20);
  weights = weights * shape_.weights_scale;
  const Tensor sum = normed.is_cuda() && n * i64(shape_.expert_width) <= kWidthOfAllExperts
                         ? all_experts(normed, experts, ids, weights)
                         : chosen_experts(normed, experts, ids, weights);
  return layer.mlp.down.defined() ? sum + mlp(layer.mlp, normed) : sum;
}

Tensor Model::forward(const Inputs& inputs) {
  const auto& s = shape_;
  const int64_t rows = inputs.tokens.size(0),
                all_heads = heads_.num_heads + 2 * heads_.num_kv_heads;
  const at::ScalarType wide = master_.scalar_type();
  Tensor x = at::embedding(embedding_, inputs.tokens).to(wide);  // (T, E), the residual stream
  Tensor gate_input;                                             // (T, E), of the layer before
  for (size_t i = 0; i < s.num_layers; ++i) {
    const LayerWeights& layer = layers_[i];
    Tensor normed = rms_norm(x, layer.attention_norm, s.norm_epsilon, type_);
    Tensor qkv = at::linear(normed, layer.qkv);
    if (layer.qkv_bias.defined()) qkv = qkv + layer.qkv_bias.to(type_);
    if (layer.q_norm.defined()) {
      const auto parts =
          qkv.view({rows, all_heads, heads_.head_dim})
              .split_with_sizes({heads_.num_heads, heads_.num_kv_heads, heads_.num_kv_heads}, 1);
      qkv = at::cat({rms_norm(parts[0].to(wide), layer.q_norm, s.norm_epsilon, type_),
                     rms_norm(parts[1].to(wide), layer.k_norm, s.norm_epsilon, type_), parts[2]},
                    1);
    }
    qkv = rotate(qkv, heads_.num_heads + heads_.num_kv_heads, inputs.angles);
    x = x + at::linear(attention(qkv, inputs.buckets, heads_), layer.out);

    if (s.num_experts == 0) {
      x = x + mlp(layer.mlp, rms_norm(x, layer.mlp_norm, s.norm_epsilon, type_));
      continue;
    }
    // Megrez2: the router of this layer reads what the MLP of the layer before read.
    const Tensor normed_wide = rms_norm(x, layer.mlp_norm, s.norm_epsilon, wide);
    normed = normed_wide.to(type_);
    if (!s.is_moe(i))
      x = x + mlp(layer.mlp, normed);
    else
      x = x + mixture(layer, experts_[(i - s.first_dense) / s.layers_per_group], i - s.first_dense,
                      normed, s.pre_gate ? gate_input : normed_wide, inputs);
    gate_input = normed_wide;
  }
  return rms_norm(x, final_norm_, s.norm_epsilon, type_);
}

Tensor Model::loss(const Inputs& inputs, double scale, Tensor* balance) {
  Balance of_pass;
  if (balance != nullptr) {
    std::vector<int64_t> sequence;
    for (const train::Bucket& bucket : inputs.buckets)
      for (size_t i = 0; i < bucket.num_sequences; ++i)
        sequence.insert(sequence.end(), bucket.length, of_pass.num_sequences++);
    of_pass.sequence = copy_to(sequence, at::kLong, device());
    of_pass.sum = at::zeros({}, master_.options());
    balance_ = &of_pass;
  }
  const Tensor hidden = forward(inputs);
  balance_ = nullptr;
  if (balance != nullptr) *balance = of_pass.sum;
  return head_loss(hidden.index_select(0, inputs.wanted), head(), inputs.targets, scale);
}

Tensor Model::logits(const Inputs& inputs) { return at::linear(forward(inputs), head()); }

void Model::collect_gradients(Tensor& flat) {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> matrices, vectors;
  int64_t end = 0;
  const auto fill_gap = [&](std::vector<Tensor>& parts, const Tensor& like, int64_t until) {
    if (until > end) parts.push_back(at::zeros({until - end}, like.options()));
    end = until;
  };
  const int64_t border = i64(table_.first_vector);
  for (Leaf& leaf : leaves_) {
    if (leaf.offset >= border && end < border) fill_gap(matrices, low_, border);
    auto& parts = leaf.offset < border ? matrices : vectors;
    fill_gap(parts, leaf.tensor, leaf.offset);
    Tensor& gradient = leaf.tensor.mutable_grad();
    parts.push_back(gradient.defined() ? gradient.reshape(-1)
                                       : at::zeros_like(leaf.tensor).view(-1));
    gradient.reset();
    end += leaf.size;
  }
  fill_gap(vectors, master_, i64(table_.size));
  flat.narrow(0, 0, border).add_(at::cat(matrices));
  flat.narrow(0, border, flat.size(0) - border).add_(at::cat(vectors));
}

Tensor Model::take_loads() {
  const Tensor loads = loads_.clone();
  loads_.zero_();
  return loads;
}

}  // namespace weft::trainer
