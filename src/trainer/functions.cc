#include "trainer/functions.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "trainer/cpu_attention.h"
#include "trainer/cpu_rows.h"

// Attention and norms in one kernel each came to libtorch with these versions.
#define WEFT_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) ||       \
   (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

#ifndef INTRA_OP_PARALLEL
#error "at::parallel_for would be a loop on one core: compile with OpenMP"
#endif

namespace weft::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// bf16 is for products; everything else is computed in f32.
Tensor wide(const Tensor& x) { return x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x; }

// The loops of cpu_rows.h take f32 and bf16; f64, for finite differences, goes by tensors'
// operations.
bool by_rows(const Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

template <typename T>
T* data_of(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

// Calls body(T()) with the type of x's values.
template <typename Body>
void with_type(const Tensor& x, Body body) {
  if (x.scalar_type() == at::kBFloat16)
    body(cpu::Bf16());
  else
    body(0.0f);
}

// Calls body(begin, end) for all rows, shared out where there is enough to do.
template <typename Body>
void for_rows(int64_t rows, int64_t values_per_row, Body body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, (1 << 15) / values_per_row), body);
}

// Calls body(job, workspace) for all jobs on all threads. A thread that is done takes the next one:
// jobs differ in length, and each writes what nobody else does.
template <typename Body>
void for_jobs(const std::vector<cpu::AttentionJob>& jobs, Body body) {
  std::atomic<size_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    cpu::AttentionWorkspace workspace;
    for (size_t i = next++; i < jobs.size(); i = next++) body(jobs[i], workspace);
  });
}

// Rows are shared out in pieces of this many where each piece has a sum of its own, so that results
// do not depend on the number of threads.
constexpr int64_t kPieceRows = 256;

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        double epsilon, int64_t out_type) {
    if (by_rows(x)) {
      const int64_t n = weight.size(0), rows = x.numel() / n;
      const Tensor input = x.contiguous();
      const Tensor inverse = at::empty({rows}, weight.options());
      const Tensor out =
          at::empty(x.sizes(), x.options().dtype(static_cast<at::ScalarType>(out_type)));
      context->save_for_backward({input, weight, inverse});
      const auto run = [&](auto in_type, auto out_value) {
        using X = decltype(in_type);
        using T = decltype(out_value);
        for_rows(rows, n, [&](int64_t begin, int64_t end) {
          cpu::rms_norm(data_of<X>(input) + begin * n, data_of<float>(weight),
                        static_cast<float>(epsilon), end - begin, n, data_of<T>(out) + begin * n,
                        data_of<float>(inverse) + begin);
        });
      };
      if (x.scalar_type() == at::kBFloat16)
        run(cpu::Bf16(), cpu::Bf16());
      else
        with_type(out, [&](auto type) { run(0.0f, type); });
      return out;
    }
    const Tensor inverse = x.square().mean(-1, true).add_(epsilon).rsqrt_();  // (..., 1)
    context->save_for_backward({x, weight, inverse});
    return (x * inverse).mul_(weight).to(static_cast<at::ScalarType>(out_type));
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    if (by_rows(x)) {
      const int64_t n = weight.size(0), rows = x.numel() / n;
      const int64_t pieces = (rows + kPieceRows - 1) / kPieceRows;
      const Tensor slope = gradients[0].contiguous();
      const Tensor g_x = at::empty_like(x), g_weights = at::zeros({pieces, n}, weight.options());
      const auto run = [&](auto in_type, auto out_value) {
        using X = decltype(in_type);
        using T = decltype(out_value);
        at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
          for (int64_t piece = begin; piece < end; ++piece) {
            const int64_t row = piece * kPieceRows;
            cpu::rms_norm_backward(data_of<X>(x) + row * n, data_of<float>(weight),
                                   data_of<float>(inverse) + row, data_of<T>(slope) + row * n,
                                   std::min(kPieceRows, rows - row), n, data_of<X>(g_x) + row * n,
                                   data_of<float>(g_weights) + piece * n);
          }
        });
      };
      if (x.scalar_type() == at::kBFloat16)
        run(cpu::Bf16(), cpu::Bf16());
      else
        with_type(slope, [&](auto type) { run(0.0f, type); });
      return {g_x, g_weights.sum(0), Variable(), Variable()};
    }
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
// back: by the opposite angles.
void turn(const Tensor& qkv, int64_t count, const Tensor& cos, const Tensor& sin, bool back) {
  if (by_rows(qkv)) {
    const int64_t d = cos.size(2), stride = qkv.numel() / qkv.size(0);
    with_type(qkv, [&](auto type) {
      using T = decltype(type);
      for_rows(qkv.size(0), stride, [&](int64_t begin, int64_t end) {
        cpu::rotate(data_of<T>(qkv) + begin * stride, end - begin, stride, count, d,
                    data_of<float>(cos) + begin * d, data_of<float>(sin) + begin * d,
                    back ? -1.0f : 1.0f);
      });
    });
    return;
  }
  const Tensor heads = qkv.view({qkv.size(0), -1, cos.size(2)}).narrow(1, 0, count);
  const auto shape = heads.sizes();
  const Tensor swapped = heads.reshape({shape[0], shape[1], 2, shape[2] / 2}).flip(2).view(shape);
  heads.copy_((swapped * (back ? -sin : sin)).addcmul_(heads, cos));
}

struct Rotate : Function<Rotate> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv, int64_t num_rotated,
                        const Tensor& cos, const Tensor& sin) {
    context->saved_data["num_rotated"] = num_rotated;
    context->save_for_backward({cos, sin});
    context->mark_dirty({qkv});
    turn(qkv, num_rotated, cos, sin, false);
    return qkv;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor g = gradients[0].clone(at::MemoryFormat::Contiguous);
    turn(g, context->saved_data["num_rotated"].toInt(), saved[0], saved[1], true);
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
    if (wants_gradient) context->save_for_backward({g_hidden, g_weight.to(weight.scalar_type())});
    return total * scale;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor g = gradients[0].to(saved[0].scalar_type());
    return {saved[0] * g, saved[1] * g, Variable(), Variable(), Variable()};
  }
};

// On a CPU alone.
struct SwigluByRows : Function<SwigluByRows> {
  static Tensor forward(AutogradContext* context, const Tensor& gate_up) {
    const int64_t n = gate_up.size(1) / 2;
    const Tensor out = at::empty({gate_up.size(0), n}, gate_up.options());
    context->save_for_backward({gate_up});
    with_type(out, [&](auto type) {
      using T = decltype(type);
      for_rows(out.size(0), n, [&](int64_t begin, int64_t end) {
        cpu::swiglu(data_of<T>(gate_up) + begin * 2 * n, end - begin, n,
                    data_of<T>(out) + begin * n);
      });
    });
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor gate_up = context->get_saved_variables()[0];
    const Tensor g = gradients[0].contiguous(), g_gate_up = at::empty_like(gate_up);
    const int64_t n = g.size(1);
    with_type(g, [&](auto type) {
      using T = decltype(type);
      for_rows(g.size(0), n, [&](int64_t begin, int64_t end) {
        cpu::swiglu_backward(data_of<T>(gate_up) + begin * 2 * n, data_of<T>(g) + begin * n,
                             end - begin, n, data_of<T>(g_gate_up) + begin * 2 * n);
      });
    });
    return {g_gate_up};
  }
};

// Attention on a CPU, see cpu_attention.h: nothing but q, k and v is kept for the way back.
struct AttentionByRows : Function<AttentionByRows> {
  static std::vector<cpu::AttentionJob> jobs_of(const std::vector<int64_t>& buckets,
                                                const cpu::AttentionShape& shape) {
    std::vector<cpu::AttentionJob> jobs;
    int64_t row = 0;
    for (size_t i = 0; i < buckets.size(); i += 2)
      for (int64_t s = 0; s < buckets[i]; ++s, row += buckets[i + 1])
        for (int64_t g = 0; g < shape.num_kv_heads; ++g) jobs.push_back({row, buckets[i + 1], g});
    std::stable_sort(jobs.begin(), jobs.end(),
                     [](const auto& a, const auto& b) { return a.length > b.length; });
    return jobs;
  }
  static Tensor forward(AutogradContext* context, const Tensor& qkv,
                        const std::vector<int64_t>& buckets, const std::vector<int64_t>& counts) {
    const cpu::AttentionShape shape{counts[0], counts[1], counts[2], counts[3]};
    context->save_for_backward({qkv});
    context->saved_data["buckets"] = buckets;
    context->saved_data["counts"] = counts;
    const Tensor out = at::empty({qkv.size(0), shape.num_heads * shape.head_dim}, qkv.options());
    const auto jobs = jobs_of(buckets, shape);
    with_type(qkv, [&](auto type) {
      using T = decltype(type);
      for_jobs(jobs, [&](const cpu::AttentionJob& job, cpu::AttentionWorkspace& workspace) {
        cpu::attention<T>(shape, job, data_of<T>(qkv), data_of<T>(out), workspace);
      });
    });
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor qkv = context->get_saved_variables()[0];
    const auto counts = context->saved_data["counts"].toIntVector();
    const cpu::AttentionShape shape{counts[0], counts[1], counts[2], counts[3]};
    const auto jobs = jobs_of(context->saved_data["buckets"].toIntVector(), shape);
    const Tensor g = gradients[0].contiguous(), g_qkv = at::empty_like(qkv);
    with_type(qkv, [&](auto type) {
      using T = decltype(type);
      for_jobs(jobs, [&](const cpu::AttentionJob& job, cpu::AttentionWorkspace& workspace) {
        cpu::attention_backward<T>(shape, job, data_of<T>(qkv), data_of<T>(g), data_of<T>(g_qkv),
                                   workspace);
      });
    });
    return {g_qkv, Variable(), Variable()};
  }
};

// Where the rows of each expert lie: expert after expert, each begun at a multiple of `multiple`
// rows and filled up with zeros. oneDNN compiles a kernel for each number of rows it meets, which
// takes longer than a small product; so it meets few.
struct ExpertRows {
  std::vector<int64_t> first;  // (N + 1), of each expert's rows
  Tensor place;                // (T * k): of choice j of token t, at t * k + j
  Tensor choice;               // (rows): the choice that lies there; T * k: none
};

ExpertRows lay_out(const Tensor& ids, int64_t num_experts) {
  const at::NoGradGuard no_grad;
  const int64_t choices = ids.numel();
  const auto n = static_cast<size_t>(num_experts);
  // A few per cent of an expert's rows on average.
  const int64_t multiple = ids.is_cuda()
                               ? 1
                               : static_cast<int64_t>(std::bit_floor(std::max<uint64_t>(
                                     8, static_cast<uint64_t>(choices / num_experts / 16))));
  const Tensor flat = ids.reshape(-1);
  const Tensor order = flat.argsort(/*stable=*/true, 0, false);
  const Tensor counts = at::bincount(flat, {}, num_experts).to(at::kCPU);
  ExpertRows out;
  out.first.resize(n + 1);
  std::vector<int64_t> gap(n);  // filled up before each expert
  int64_t before = 0;
  for (size_t j = 0; j < n; ++j) {
    const int64_t count = counts.data_ptr<int64_t>()[j];
    gap[j] = out.first[j] - before;
    before += count;
    out.first[j + 1] = out.first[j] + (count + multiple - 1) / multiple * multiple;
  }
  const Tensor gaps = at::tensor(gap, at::kLong).to(ids.device());
  const Tensor sorted_place =
      at::arange(choices, flat.options()) + gaps.index_select(0, flat.index_select(0, order));
  out.place = at::empty_like(order).scatter_(0, order, sorted_place);
  out.choice =
      at::full({out.first.back()}, choices, flat.options()).scatter_(0, sorted_place, order);
  return out;
}

// x (T, E) -> the row of the token at each place, zeros where there is none.
struct SpreadRows : Function<SpreadRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& place,
                        const Tensor& choice) {
    context->save_for_backward({place});
    context->saved_data["rows"] = x.size(0);
    const int64_t k = place.size(0) / x.size(0);
    const Tensor with_none = at::cat({x, at::zeros({1, x.size(1)}, x.options())});
    return with_none.index_select(0, choice.div(k, "floor"));
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor& g = gradients[0];
    const Tensor of_choices = g.index_select(0, context->get_saved_variables()[0]);
    return {of_choices.view({context->saved_data["rows"].toInt(), -1, g.size(1)}).sum(1),
            Variable(), Variable()};
  }
};

// The row at each choice's place, (T * k, E). Going back, a place without a choice gets any row's
// gradient: its input is zero, and so is what it adds to an expert's gradient.
struct CollectRows : Function<CollectRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& place,
                        const Tensor& choice) {
    context->save_for_backward({choice});
    return x.index_select(0, place);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor& g = gradients[0];
    const Tensor choice = context->get_saved_variables()[0].clamp_max(g.size(0) - 1);
    return {g.index_select(0, choice), Variable(), Variable()};
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
  if (by_rows(qkv) && cpu::has_attention()) {
    std::vector<int64_t> sizes;
    for (const train::Bucket& bucket : buckets) {
      sizes.push_back(static_cast<int64_t>(bucket.num_sequences));
      sizes.push_back(static_cast<int64_t>(bucket.length));
    }
    return AttentionByRows::apply(qkv.contiguous(), sizes,
                                  std::vector<int64_t>{h, g, d, heads.window});
  }
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
  if (by_rows(gate_up)) return SwigluByRows::apply(gate_up.contiguous());
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

Tensor head_loss(const Tensor& hidden, const Tensor& weight, const Tensor& targets, double scale) {
  const bool wants_gradient =
      at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return HeadLoss::apply(hidden, weight, targets, scale, wants_gradient);
}

Tensor chosen_experts(const Tensor& x, const ExpertWeights& experts, const Tensor& ids,
                      const Tensor& weights) {
  const int64_t rows = x.size(0), e = x.size(1), k = ids.size(1);
  const ExpertRows at_expert = lay_out(ids, experts.down.size(0));
  const Tensor spread = SpreadRows::apply(x, at_expert.place, at_expert.choice);
  const Tensor between = swiglu(GroupedLinear::apply(spread, experts.gate_up, at_expert.first));
  const Tensor outs =
      CollectRows::apply(GroupedLinear::apply(between, experts.down, at_expert.first),
                         at_expert.place, at_expert.choice);
  return (outs.view({rows, k, e}) * weights.unsqueeze(2)).sum(1);
}

Tensor all_experts(const Tensor& x, const ExpertWeights& experts, const Tensor& ids,
                   const Tensor& weights) {
  const int64_t rows = x.size(0), e = x.size(1), n = experts.down.size(0), w = experts.down.size(2);
  const Tensor of_all = at::zeros({rows, n}, weights.options()).scatter(1, ids, weights);
  const Tensor gate_up = at::linear(x, experts.gate_up.view({n * 2 * w, e}));
  const Tensor between = swiglu(gate_up.view({rows * n, 2 * w})).view({rows, n, w});
  const Tensor weighted = (between * of_all.unsqueeze(2)).to(x.scalar_type()).view({rows, n * w});
  return weighted.mm(experts.down.transpose(1, 2).reshape({n * w, e}));
}

}  // namespace weft::trainer
