#include "formats/quant_mix.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <string>

#include "base/error.h"

namespace weft::formats {
namespace {

constexpr QuantMix kMixes[] = {
    {"f32", 0, DType::kF32},      {"f16", 1, DType::kF16},      {"bf16", 32, DType::kBF16},
    {"q8_0", 7, DType::kQ8_0},    {"q6_K", 18, DType::kQ6_K},   {"q5_K_M", 17, DType::kQ5_K},
    {"q5_K_S", 16, DType::kQ5_K}, {"q5_1", 9, DType::kQ5_1},    {"q5_0", 8, DType::kQ5_0},
    {"q4_K_M", 15, DType::kQ4_K}, {"q4_K_S", 14, DType::kQ4_K}, {"q4_1", 3, DType::kQ4_1},
    {"q4_0", 2, DType::kQ4_0},    {"q3_K_L", 13, DType::kQ3_K}, {"q3_K_M", 12, DType::kQ3_K},
    {"q3_K_S", 11, DType::kQ3_K}, {"q2_K", 10, DType::kQ2_K},
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

bool is(const QuantMix& mix, std::string_view name) { return mix.name == name; }

// "blk.3.attn_v.weight" -> 3; layers are counted from 0.
size_t layer_of(std::string_view tensor) {
  size_t layer = 0;
  if (tensor.starts_with("blk."))
    std::from_chars(tensor.data() + 4, tensor.data() + tensor.size(), layer);
  return layer;
}

// The first and last eighth of the layers, and every third between them.
bool gets_more_bits(size_t layer, size_t num_layers) {
  const size_t eighth = num_layers / 8;
  return layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2;
}

DType value_projection(const QuantMix& mix, const QuantMixModel& model, size_t layer) {
  if (is(mix, "q2_K")) return model.queries_per_kv_head >= 4 ? DType::kQ4_K : DType::kQ3_K;
  if (is(mix, "q3_K_M")) return layer < 2 ? DType::kQ5_K : DType::kQ4_K;
  if (is(mix, "q3_K_L")) return DType::kQ5_K;
  if (is(mix, "q4_K_S") && layer < 4) return DType::kQ5_K;
  if ((is(mix, "q4_K_M") || is(mix, "q5_K_M")) && gets_more_bits(layer, model.num_layers))
    return DType::kQ6_K;
  return mix.base;
}

DType mlp_down(const QuantMix& mix, const QuantMixModel& model, size_t layer) {
  if (is(mix, "q2_K")) return DType::kQ3_K;
  if (is(mix, "q3_K_M")) return layer < model.num_layers / 16 ? DType::kQ5_K : DType::kQ4_K;
  if (is(mix, "q3_K_L")) return DType::kQ5_K;
  if (is(mix, "q4_K_S") && layer < model.num_layers / 8) return DType::kQ5_K;
  if ((is(mix, "q4_K_M") || is(mix, "q5_K_M")) && gets_more_bits(layer, model.num_layers))
    return DType::kQ6_K;
  return mix.base;
}

DType attention_output(const QuantMix& mix) {
  if (is(mix, "q2_K")) return DType::kQ3_K;
  if (is(mix, "q3_K_M")) return DType::kQ4_K;
  if (is(mix, "q3_K_L")) return DType::kQ5_K;
  return mix.base;
}

DType fall_back(DType type, size_t columns) {
  if (columns % traits(type).block_elements == 0) return type;
  switch (type) {
    case DType::kQ2_K:
    case DType::kQ3_K:
      type = DType::kQ4_0;
      break;
    case DType::kQ4_K:
      type = DType::kQ5_0;
      break;
    case DType::kQ5_K:
      type = DType::kQ5_1;
      break;
    case DType::kQ6_K:
      type = DType::kQ8_0;
      break;
    default:
      break;
  }
  return columns % traits(type).block_elements == 0 ? type : DType::kF16;
}

}  // namespace

std::span<const QuantMix> quant_mixes() { return kMixes; }

const QuantMix& quant_mix(std::string_view name) {
  std::string wanted = lower(name);
  if (wanted == "q3_k" || wanted == "q4_k" || wanted == "q5_k") wanted += "_m";
  std::string known;
  for (const QuantMix& mix : kMixes) {
    if (lower(mix.name) == wanted) return mix;
    known += (known.empty() ? "" : ", ") + std::string(mix.name);
  }
  fail(ErrorKind::kInvalidInput, "'{}' is no type to quantise to. Known are {}.", name, known);
}

DType mixed_type(const QuantMix& mix, const QuantMixModel& model, std::string_view tensor,
                 const Shape& shape) {
  if (shape.rank() < 2 || !tensor.ends_with(".weight")) return DType::kF32;
  if (tensor.ends_with(".ffn_gate_inp.weight"))
    return DType::kF32;  // a router: near-ties would flip
  if (!is_block_quantised(mix.base)) return mix.base;
  const bool is_head =
      tensor == "output.weight" || (!model.has_output && tensor == "token_embd.weight");
  const size_t layer = layer_of(tensor);
  DType type = mix.base;
  if (is_head) {
    type = mix.base == DType::kQ8_0 ? DType::kQ8_0 : DType::kQ6_K;
  } else if (tensor.ends_with(".attn_v.weight")) {
    type = value_projection(mix, model, layer);
  } else if (tensor.find(".ffn_down") != tensor.npos) {  // also of experts
    type = mlp_down(mix, model, layer);
  } else if (tensor.ends_with(".attn_output.weight")) {
    type = attention_output(mix);
  }
  return fall_back(type, shape.columns());
}

}  // namespace weft::formats
