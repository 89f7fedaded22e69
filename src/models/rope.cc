#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/quantize.h"

namespace weft::models {
namespace {

using formats::Checkpoint;

double positive(const Checkpoint& checkpoint, const char* key, double otherwise) {
  const double value = checkpoint.get_float(key).value_or(otherwise);
  if (!(value > 0) || !std::isfinite(value))
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is {}, expected more than 0",
         checkpoint.name(), key, value);
  return value;
}

// The pair (as a real number) that turns `turns` times within the original context.
double pair_of_turns(double turns, double dim, double base, double original_context) {
  return dim * std::log(original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
}

// YaRN, §3.2: pairs that turn often keep their frequency, those that hardly turn are interpolated
// (divided by `factor`), with a ramp between.
void scale_yarn(const Checkpoint& checkpoint, double base, double factor,
                kernels::RopeTable& table) {
  std::vector<float>& frequency = table.inverse_frequency;
  const auto dim = static_cast<double>(2 * frequency.size());
  const auto original =
      static_cast<double>(checkpoint.require_int("rope.scaling.original_context_length"));
  if (!(original > 0))
    fail(ErrorKind::kInvalidInput,
         "{}: hyper-parameter 'rope.scaling.original_context_length' is {}, expected more than 0",
         checkpoint.name(), original);
  const double fast = positive(checkpoint, "rope.scaling.yarn_beta_fast", 32);
  const double slow = positive(checkpoint, "rope.scaling.yarn_beta_slow", 1);
  const double low = std::max(0.0, std::floor(pair_of_turns(fast, dim, base, original)));
  double high = std::min(dim - 1, std::ceil(pair_of_turns(slow, dim, base, original)));
  if (high == low) high += 0.001;  // as the released code: no division by zero
  for (size_t i = 0; i < frequency.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double plain = std::pow(base, -2.0 * static_cast<double>(i) / dim);
    frequency[i] = static_cast<float>(plain / factor * ramp + plain * (1 - ramp));
  }
  // §3.4: the attention's temperature, put into sin and cos.
  table.magnitude = static_cast<float>(positive(checkpoint, "rope.scaling.yarn_attn_factor", 1) *
                                       (factor > 1 ? 1 + 0.1 * std::log(factor) : 1));
}

void divide_by_tensor(const Checkpoint& checkpoint, std::vector<float>& frequency) {
  const auto tensor = checkpoint.find("rope_freqs.weight");
  if (!tensor) return;
  if (tensor->dtype != DType::kF32 || tensor->shape.elements() != frequency.size())
    fail(ErrorKind::kInvalidInput,
         "{}: tensor 'rope_freqs.weight' holds {} values of {}, but {} rotating pairs need as many "
         "of f32",
         checkpoint.name(), tensor->shape.elements(), name(tensor->dtype), frequency.size());
  std::vector<float> divisor(frequency.size());
  kernels::dequantize(DType::kF32, tensor->data, divisor.data(), divisor.size());
  for (size_t i = 0; i < frequency.size(); ++i) {
    if (!(divisor[i] > 0) || !std::isfinite(divisor[i]))
      fail(ErrorKind::kInvalidInput,
           "{}: tensor 'rope_freqs.weight' has {} at {}, expected more than 0", checkpoint.name(),
           divisor[i], i);
    frequency[i] /= divisor[i];
  }
}

}  // namespace

kernels::RopeTable read_rope(const Checkpoint& checkpoint, size_t head_dim) {
  const int64_t dim =
      checkpoint.get_int("rope.dimension_count").value_or(static_cast<int64_t>(head_dim));
  if (dim <= 0 || dim > static_cast<int64_t>(head_dim) || dim % 2 != 0)
    fail(ErrorKind::kInvalidInput,
         "{}: hyper-parameter 'rope.dimension_count' is {}, expected an even number up to {}",
         checkpoint.name(), dim, head_dim);
  const double base = positive(checkpoint, "rope.freq_base", 10000);
  const std::string scaling = checkpoint.get_string("rope.scaling.type").value_or("none");
  const double factor = positive(checkpoint, "rope.scaling.factor", 1);

  kernels::RopeTable table;
  table.style =
      checkpoint.rope_interleaved() ? kernels::RopeStyle::kInterleaved : kernels::RopeStyle::kHalf;
  table.inverse_frequency.resize(static_cast<size_t>(dim) / 2);
  const double divisor = scaling == "linear" ? factor : 1;
  for (size_t i = 0; i < table.inverse_frequency.size(); ++i)
    table.inverse_frequency[i] = static_cast<float>(
        std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dim)) / divisor);
  if (scaling == "yarn")
    scale_yarn(checkpoint, base, factor, table);
  else if (scaling != "none" && scaling != "linear")
    fail(ErrorKind::kUnsupported, "{}: RoPE scaling '{}' is not supported (linear and yarn are)",
         checkpoint.name(), scaling);
  divide_by_tensor(checkpoint, table.inverse_frequency);
  return table;
}

}  // namespace weft::models
