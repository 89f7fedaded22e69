#include "trainer/functions.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

// Attention and norms in one kernel each came to libtorch with these versions.
#define WEFT_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) ||       \
   (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

namespace weft::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// bf16 is for products; everything else is computed in f32.
Tensor wide(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
}

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        double epsilon, int64_t out_type) {
    const Tensor inverse = x.square().mean(-1, true).add_(epsilon).rsqrt_();  // (..., 1)
    context->save_for_backward({x, weight, inverse});
    return (x * inverse).mul_(weight).to(static_cast<at::ScalarType>(out_type));
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const Tensor g = wide(gradients[0]);
    const Tensor normed = x * inverse;
    const Tensor g_normed = g * normed;
    const Tensor g_weight = g_normed.reshape({-1, weight.size(0)}).sum(0);
    const Tensor mean = (g_normed * weight).mean(-1, true);
    const Tensor g_x = (g * weight).sub_(normed.mul_(mean)).mul_(inverse);
    return {g_x, g_weight, Variable(), Variable()};
  }
};

// The first `count` heads of qkv (T, (H + 2G) * D) = heads * cos + swap_halves(heads) * sin.
void turn(const Tensor& qkv, int64_t count, const Tensor& cos, const Tensor& sin) {
  const Tensor heads = qkv.view({qkv.size(0), -1, cos.size(2)}).narrow(1, 0, count);
  const auto shape = heads.sizes();
  const Tensor swapped = heads.reshape({shape[0], shape[1], 2, shape[2] / 2}).flip(2).view(shape);
  heads.copy_((swapped * sin).addcmul_(heads, cos));
}

struct Rotate : Function<Rotate> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv, int64_t num_rotated,
                        const Tensor& cos, const Tensor& sin) {
    context->saved_data["num_rotated"] = num_rotated;
    context->save_for_backward({cos, sin});
    context->mark_dirty({qkv});
    turn(qkv, num_rotated, cos, sin);
    return qkv;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor g = gradients[0].clone(at::MemoryFormat::Contiguous);
    turn(g, context->saved_data["num_rotated"].toInt(), saved[0], -saved[1]);
    return {g, Variable(), Variable(), Variable()};
  }
};

// q (n, H, L, D); k, v (n, G, L, D) -> (n, H, L, D).
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const HeadCounts& heads) {
  const int64_t length = q.size(2), group = heads.num_heads / heads.num_kv_heads;
  const bool all = heads.window == 0 || heads.window >= length;
  const auto for_all_heads = [&](const Tensor& kv) {
    if (group == 1) return kv;
    return kv.unsqueeze(2)
        .expand({kv.size(0), heads.num_kv_heads, group, length, heads.head_dim})
        .reshape({kv.size(0), heads.num_heads, length, heads.head_dim});
  };
#if WEFT_TORCH_AT_LEAST(2, 5)
  if (all) {
    const bool grouped = group > 1 && q.is_cuda() && q.scalar_type() == at::kBFloat16;
    if (grouped)
      return at::scaled_dot_product_attention(q, k, v, {}, 0.0, true, std::nullopt, true);
    return at::scaled_dot_product_attention(q, for_all_heads(k), for_all_heads(v), {}, 0.0, true);
  }
#endif
  const double scale = 1 / std::sqrt(static_cast<double>(heads.head_dim));
  const auto options = q.options();
  Tensor seen = at::ones({length, length}, options.dtype(at::kBool)).tril_();
  if (!all) seen = seen.triu(1 - heads.window);
  const Tensor scores = wide(at::matmul(q * scale, for_all_heads(k).transpose(-1, -2)));
  const Tensor weights =
      scores.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity()).softmax(-1);
  return at::matmul(weights.to(v.scalar_type()), for_all_heads(v));
}

// Rows of logits that exist at a time.
int64_t rows_at_once(const Tensor& weight) {
  const int64_t values = weight.is_cuda() ? int64_t{1} << 28 : int64_t{1} << 24;
  return std::max<int64_t>(64, values / weight.size(0));
}

struct HeadLoss : Function<HeadLoss> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden, const Tensor& weight,
                        const Tensor& targets, double scale, bool wants_gradient) {
    const int64_t rows = hidden.size(0), step = rows_at_once(weight);
    Tensor total = at::zeros({}, wide(hidden.narrow(0, 0, 0)).options());
    Tensor g_hidden = wants_gradient ? at::empty_like(hidden) : Tensor(), g_weight;
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t count = std::min(step, rows - first);
      const Tensor h = hidden.narrow(0, first, count);
      const Tensor target = targets.narrow(0, first, count).unsqueeze(1);
      const Tensor logits = wide(h.mm(weight.t()));
      const Tensor sums = logits.logsumexp(1, true);
      total += (sums - logits.gather(1, target)).sum();
      if (!wants_gradient) continue;
      // d loss / d logits = softmax - one at the target
      Tensor g = (logits - sums).exp_();
      g.scatter_add_(1, target, at::full_like(sums, -1.0));
      g = g.mul_(scale).to(weight.scalar_type());
      Tensor part = g_hidden.narrow(0, first, count);
      at::mm_out(part, g, weight);
      const Tensor of_weight = g.t().mm(h);
      if (rows <= step)
        g_weight = of_weight;
      else
        g_weight = g_weight.defined() ? g_weight.add_(of_weight) : wide(of_weight).clone();
    }
    if (wants_gradient)
      context->save_for_backward({g_hidden, g_weight.to(weight.scalar_type())});
    return total * scale;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor g = gradients[0].to(saved[0].scalar_type());
    return {saved[0] * g, saved[1] * g, Variable(), Variable(), Variable()};
  }
};

struct PermuteRows : Function<PermuteRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& index,
                        const Tensor& inverse) {
    context->save_for_backward({inverse});
    return x.index_select(0, index);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    return {gradients[0].index_select(0, context->get_saved_variables()[0]), Variable(),
            Variable()};
  }
};

struct GroupedLinear : Function<GroupedLinear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weights,
                        const std::vector<int64_t>& first) {
    context->save_for_backward({x, weights});
    context->saved_data["first"] = first;
    Tensor out = at::empty({x.size(0), weights.size(1)}, x.options());
    for (int64_t j = 0; j < weights.size(0); ++j) {
      const int64_t begin = first[static_cast<size_t>(j)];
      const int64_t count = first[static_cast<size_t>(j) + 1] - begin;
      if (count == 0) continue;
      Tensor rows = out.narrow(0, begin, count);
      at::mm_out(rows, x.narrow(0, begin, count), weights.select(0, j).t());
    }
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weights = saved[1];
    const std::vector<int64_t> first = context->saved_data["first"].toIntVector();
    const Tensor g = gradients[0].contiguous();
    const Tensor g_x = at::empty_like(x), g_weights = at::zeros_like(weights);
    for (int64_t j = 0; j < weights.size(0); ++j) {
      const int64_t begin = first[static_cast<size_t>(j)];
      const int64_t count = first[static_cast<size_t>(j) + 1] - begin;
      if (count == 0) continue;
      const Tensor g_rows = g.narrow(0, begin, count);
      Tensor x_part = g_x.narrow(0, begin, count), w_part = g_weights.select(0, j);
      at::mm_out(x_part, g_rows, weights.select(0, j));
      at::mm_out(w_part, g_rows.t(), x.narrow(0, begin, count));
    }
    return {g_x, g_weights, Variable()};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon, at::ScalarType out_type) {
#if WEFT_TORCH_AT_LEAST(2, 9)
  if (x.is_cuda()) return at::rms_norm(x, weight.sizes(), weight, epsilon).to(out_type);
#endif
  return RmsNorm::apply(x, weight, epsilon, static_cast<int64_t>(out_type));
}

Tensor rotate(const Tensor& qkv, int64_t num_rotated, const RotationAngles& angles) {
  return Rotate::apply(qkv, num_rotated, angles.cos, angles.sin);
}

Tensor attention(const Tensor& qkv, std::span<const train::Bucket> buckets,
                 const HeadCounts& heads) {
  const int64_t h = heads.num_heads, g = heads.num_kv_heads, d = heads.head_dim;
  std::vector<int64_t> rows;
  for (const train::Bucket& bucket : buckets)
    rows.push_back(static_cast<int64_t>(bucket.num_sequences * bucket.length));
  const std::vector<Tensor> parts = qkv.split_with_sizes(rows, 0);
  std::vector<Tensor> outs;
  for (size_t i = 0; i < buckets.size(); ++i) {
    const auto n = static_cast<int64_t>(buckets[i].num_sequences);
    const std::vector<Tensor> qkv_of =
        parts[i].view({n, rows[i] / n, h + 2 * g, d}).split_with_sizes({h, g, g}, 2);
    const Tensor out = attend(qkv_of[0].transpose(1, 2), qkv_of[1].transpose(1, 2),
                              qkv_of[2].transpose(1, 2), heads);
    outs.push_back(out.transpose(1, 2).reshape({rows[i], h * d}));
  }
  return outs.size() == 1 ? outs.front() : at::cat(outs);
}

Tensor swiglu(const Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

Tensor head_loss(const Tensor& hidden, const Tensor& weight, const Tensor& targets, double scale) {
  const bool wants_gradient =
      at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return HeadLoss::apply(hidden, weight, targets, scale, wants_gradient);
}

Tensor permute_rows(const Tensor& x, const Tensor& index, const Tensor& inverse) {
  return PermuteRows::apply(x, index, inverse);
}

Tensor grouped_linear(const Tensor& x, const Tensor& weights, const std::vector<int64_t>& first) {
  WEFT_ASSERT(first.size() == static_cast<size_t>(weights.size(0)) + 1);
  return GroupedLinear::apply(x, weights, first);
}

}  // namespace weft::trainer
