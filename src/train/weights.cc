#include "train/weights.h"

#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>

#include "base/error.h"
#include "base/random.h"
#include "formats/hf_folder.h"
#include "kernels/quantize.h"

namespace weft::train {
namespace {

using formats::Checkpoint;

void fill_normal(uint64_t seed, uint64_t parameter, float deviation, float* out, size_t count) {
  for (size_t i = 0; i < count; i += 2) {  // Box-Muller
    const auto pair = static_cast<uint64_t>(i / 2);
    const uint64_t request = parameter << 40 | pair;
    const double radius = std::sqrt(-2 * std::log(1 - uniform(seed, request, 0, 0)));
    const double angle = 2 * std::numbers::pi * uniform(seed, request, 0, 1);
    out[i] = deviation * static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) out[i + 1] = deviation * static_cast<float>(radius * std::sin(angle));
  }
}

// The tensor of that name, or the part that an expert has of a stack of them.
TensorView find_tensor(const Checkpoint& checkpoint, const std::string& gguf_name) {
  if (const auto found = checkpoint.find(gguf_name)) return *found;
  constexpr std::string_view kStack = "_exps.";
  const size_t at = gguf_name.find(kStack);
  if (at != std::string::npos) {
    const size_t index = std::stoul(gguf_name.substr(at + kStack.size()));
    const auto stack = checkpoint.find(gguf_name.substr(0, at + kStack.size()) + "weight");
    if (stack && stack->shape.rank() == 3 && index < stack->shape[0])
      return {
          stack->dtype, {stack->shape[1], stack->shape[2]}, stack->row(index * stack->shape[1])};
  }
  return checkpoint.require(gguf_name);
}

// GGUF's Llama turns (2i, 2i + 1), Hugging Face's (i, i + dim/2): row r of a head comes from here.
size_t interleaved_row(size_t row, size_t head_dim) {
  const size_t r = row % head_dim, half = head_dim / 2;
  return row - r + (r < half ? 2 * r : 2 * (r - half) + 1);
}

bool is_rotated(const std::string& name) {
  return name.find("self_attn.q_proj") != std::string::npos ||
         name.find("self_attn.k_proj") != std::string::npos;
}

}  // namespace

Weights random_weights(const ModelShape& shape, const ParameterTable& table, uint64_t seed) {
  Weights weights;
  weights.values.assign(table.size, 0);
  weights.router_bias.assign(shape.num_moe_layers() * shape.num_experts, 0);
  for (size_t i = 0; i < table.parameters.size(); ++i) {
    const Parameter& p = table.parameters[i];
    float* const out = weights.values.data() + p.offset;
    if (p.initial == InitialValue::kNormal) fill_normal(seed, i, p.deviation, out, p.size());
    if (p.initial == InitialValue::kOne) std::fill_n(out, p.size(), 1.0f);
  }
  return weights;
}

Weights read_weights(const Checkpoint& checkpoint, const ModelShape& shape,
                     const ParameterTable& table) {
  Weights weights;
  weights.values.assign(table.size, 0);
  const bool interleaved = checkpoint.rope_interleaved();
  const auto read = [&](const std::string& name, const Shape& expected, float* out) {
    const std::string gguf_name = formats::gguf_tensor_name(name).value();
    const TensorView tensor = find_tensor(checkpoint, gguf_name);
    if (!(tensor.shape == expected))
      fail(
          ErrorKind::kInvalidInput,
          "{}: tensor '{}' has {} values, but the hyper-parameters need {} in {} rows. The file is "
          "damaged or was converted with another configuration: fetch or convert it again.",
          checkpoint.name(), gguf_name, tensor.shape.elements(), expected.elements(),
          expected.rows());
    if (!traits(tensor.dtype).is_weight)
      fail(ErrorKind::kUnsupported, "{}: tensor '{}' is stored as {}, which is no weight format",
           checkpoint.name(), gguf_name, weft::name(tensor.dtype));
    const size_t columns = expected.rank() == 1 ? 1 : expected.columns();
    if (!interleaved || !is_rotated(name)) {
      kernels::dequantize(tensor.dtype, tensor.data, out, expected.elements());
    } else {
      std::vector<float> values(expected.elements());
      kernels::dequantize(tensor.dtype, tensor.data, values.data(), values.size());
      for (size_t row = 0; row < values.size() / columns; ++row)
        std::memcpy(out + row * columns,
                    values.data() + interleaved_row(row, shape.head_dim) * columns,
                    columns * sizeof(float));
    }
    checkpoint.release(tensor);
  };
  for (const Parameter& p : table.parameters)
    read(p.name, p.shape, weights.values.data() + p.offset);
  const size_t n = shape.num_experts;
  weights.router_bias.assign(shape.num_moe_layers() * n, 0);
  for (size_t i = 0; i < shape.num_moe_layers(); ++i) {
    const std::string name = router_bias_name(shape.first_dense + i);
    if (checkpoint.find(formats::gguf_tensor_name(name).value()))
      read(name, {n}, weights.router_bias.data() + i * n);
  }
  return weights;
}

}  // namespace weft::train
