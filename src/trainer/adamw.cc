#include "trainer/adamw.h"

#include <cmath>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

namespace weft::trainer {
namespace {

using at::Tensor;

struct Factors {
  double rate, decay;  // of this step
  double beta1, beta2, mean_correction, square_correction, epsilon;
};

// One pass over memory where tensors would take ten.
void update_on_cpu(float* w, float* m, float* v, const float* g, int64_t begin, int64_t end,
                   float scale, const Factors& f, int64_t decayed) {
  const auto beta1 = static_cast<float>(f.beta1), beta2 = static_cast<float>(f.beta2);
  const auto step = static_cast<float>(f.rate / f.mean_correction);
  const auto root = static_cast<float>(1 / std::sqrt(f.square_correction));
  const auto epsilon = static_cast<float>(f.epsilon);
  const auto run = [&](int64_t from, int64_t to, float kept) {
    for (int64_t i = from; i < to; ++i) {
      const float x = g[i] * scale;
      m[i] = beta1 * m[i] + (1 - beta1) * x;
      v[i] = beta2 * v[i] + (1 - beta2) * x * x;
      w[i] = kept * w[i] - step * m[i] / (std::sqrt(v[i]) * root + epsilon);
    }
  };
  const int64_t border = std::clamp(decayed, begin, end);
  run(begin, border, static_cast<float>(1 - f.rate * f.decay));
  run(border, end, 1);
}

}  // namespace

AdamW::AdamW(const Tensor& parameters, const AdamWOptions& options)
    : options_(options), mean_(at::zeros_like(parameters)), square_(at::zeros_like(parameters)) {}

Tensor AdamW::step(Tensor& parameters, Tensor& gradient, double rate) {
  const at::NoGradGuard no_grad;
  ++steps_;
  const auto n = static_cast<double>(steps_);
  const Factors f{rate,
                  options_.weight_decay,
                  options_.beta1,
                  options_.beta2,
                  1 - std::pow(options_.beta1, n),
                  1 - std::pow(options_.beta2, n),
                  options_.epsilon};
  const Tensor norm = gradient.norm();
  const Tensor is_finite = norm.isfinite();
  const Tensor report = at::stack({norm, is_finite.to(norm.scalar_type())}).to(at::kFloat);
  if (parameters.is_cpu() && parameters.scalar_type() == at::kFloat) {
    const float* const values = report.data_ptr<float>();
    if (values[1] == 0) return report;
    const double scale = options_.clip > 0 ? std::min(1.0, options_.clip / (values[0] + 1e-6)) : 1;
    float* const w = parameters.data_ptr<float>();
    float* const m = mean_.data_ptr<float>();
    float* const v = square_.data_ptr<float>();
    const float* const g = gradient.data_ptr<float>();
    at::parallel_for(0, parameters.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
      update_on_cpu(w, m, v, g, begin, end, static_cast<float>(scale), f, options_.decayed);
    });
    return report;
  }
  // Of a gradient that is no number, 0 is left, and factors of 0 and 1 that keep all as it is.
  const Tensor go = is_finite.to(gradient.scalar_type());
  if (options_.clip > 0) gradient.mul_((options_.clip / (norm + 1e-6)).clamp_max_(1));
  gradient.nan_to_num_(0, 0, 0);
  mean_.lerp_(gradient, go * (1 - f.beta1));
  square_.lerp_(gradient.square_(), go * (1 - f.beta2));
  const Tensor change = square_.sqrt();
  change.mul_(1 / std::sqrt(f.square_correction)).add_(f.epsilon).reciprocal_().mul_(mean_);
  if (options_.decayed > 0)
    parameters.narrow(0, 0, options_.decayed).mul_(1 - go * (f.rate * f.decay));
  parameters.sub_(change.mul_(go * (f.rate / f.mean_correction)));
  return report;
}

}  // namespace weft::trainer
