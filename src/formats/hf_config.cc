#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "formats/hf_folder.h"

namespace weft::formats {
namespace {

using nlohmann::json;

// A JSON object with look-ups that name the file and key. null counts as absent: transformers
// writes it for options that are off.
class Section {
 public:
  Section(const json& object, std::string where) : object_(&object), where_(std::move(where)) {
    if (!object.is_object()) fail(ErrorKind::kInvalidInput, "{}: not a JSON object", where_);
  }

  const std::string& where() const { return where_; }

  const json* find(const char* key) const {
    const auto it = object_->find(key);
    return it == object_->end() || it->is_null() ? nullptr : &*it;
  }

  std::optional<int64_t> get_count(const char* key) const {  // a positive integer
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer() || *value <= 0 || *value > (int64_t{1} << 40))
      fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected a positive integer", where_, key,
           value->dump());
    return value->get<int64_t>();
  }

  int64_t require_count(const char* key) const {
    if (const auto value = get_count(key)) return *value;
    fail(ErrorKind::kInvalidInput, "{}: '{}' is missing", where_, key);
  }

  std::optional<double> get_number(const char* key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !std::isfinite(value->get<double>()))
      fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected a number", where_, key,
           value->dump());
    return value->get<double>();
  }

  double require_positive(const char* key) const {
    const auto value = get_number(key);
    if (!value) fail(ErrorKind::kInvalidInput, "{}: '{}' is missing", where_, key);
    if (*value <= 0)
      fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected more than 0", where_, key, *value);
    return *value;
  }

  std::optional<std::string> get_string(const char* key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string())
      fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected a string", where_, key,
           value->dump());
    return value->get<std::string>();
  }

  bool get_bool(const char* key) const {  // absent means false
    const json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean())
      fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected true or false", where_, key,
           value->dump());
    return value->get<bool>();
  }

 private:
  const json* object_;
  std::string where_;
};

// One row per model class that can be loaded.
struct Family {
  const char* hf_class;
  const char* architecture;
  int64_t default_head_dim;  // where config.json has no head_dim; 0 = hidden_size / heads
  bool slides_always;        // sliding_window applies without use_sliding_window
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", 0, false},          {"MistralForCausalLM", "llama", 0, true},
    {"Qwen2ForCausalLM", "qwen2", 0, false},          {"Qwen3ForCausalLM", "qwen3", 128, false},
    {"MegrezMoeForCausalLM", "megrez-moe", 0, false}, {"Dots1ForCausalLM", "dots1", 0, false},
};

const Family& family_of(const Section& config) {
  const json* classes = config.find("architectures");
  std::string name;
  if (classes != nullptr && classes->is_array() && !classes->empty() &&
      classes->front().is_string())
    name = classes->front().get<std::string>();
  for (const Family& family : kFamilies)
    if (name == family.hf_class) return family;
  std::string known;
  for (const Family& family : kFamilies)
    known += (known.empty() ? "" : ", ") + std::string(family.hf_class);
  fail(ErrorKind::kUnsupported, "{}: architecture '{}' is not supported. Known are {}.",
       config.where(), name.empty() ? "(none named)" : name, known);
}

void refuse_what_would_change_results(const Section& config) {
  if (config.find("quantization_config") != nullptr)
    fail(ErrorKind::kUnsupported,
         "{}: the weights are quantised by another library "
         "(quantization_config). Take the original weights, or a GGUF file.",
         config.where());
  const std::string activation = config.get_string("hidden_act").value_or("silu");
  if (activation != "silu")
    fail(ErrorKind::kUnsupported, "{}: hidden_act '{}' is not supported, only silu", config.where(),
         activation);
  if (config.get_bool("use_sliding_window"))
    fail(ErrorKind::kUnsupported,
         "{}: use_sliding_window (a window on some layers only) is not "
         "supported",
         config.where());
}

// The factor by which YaRN multiplies sin and cos in transformers (arXiv 2309.00071, §3.4).
double yarn_magnitude(const Section& rope, double factor) {
  const auto recommended = [&](double weight) {
    return factor <= 1 ? 1.0 : 1.0 + 0.1 * weight * std::log(factor);
  };
  if (const auto given = rope.get_number("attention_factor")) return *given;
  const double mscale = rope.get_number("mscale").value_or(0);
  const double all_dim = rope.get_number("mscale_all_dim").value_or(0);
  return mscale != 0 && all_dim != 0 ? recommended(mscale) / recommended(all_dim) : recommended(1);
}

void translate_yarn(const Section& rope, int64_t context_length, Hyperparameters& out) {
  const int64_t original =
      rope.get_count("original_max_position_embeddings").value_or(context_length);
  const double factor = rope.find("factor") != nullptr
                            ? rope.require_positive("factor")
                            : static_cast<double>(context_length) / static_cast<double>(original);
  if (const json* truncate = rope.find("truncate"); truncate != nullptr && *truncate == false)
    fail(ErrorKind::kUnsupported, "{}: yarn with truncate = false is not supported", rope.where());
  out["rope.scaling.type"] = "yarn";
  out["rope.scaling.factor"] = factor;
  out["rope.scaling.original_context_length"] = original;
  // transformers states the whole factor, GGUF what it is times the recommended one.
  out["rope.scaling.yarn_attn_factor"] =
      yarn_magnitude(rope, factor) / (1.0 + 0.1 * std::log(factor));
  if (const auto fast = rope.get_number("beta_fast")) out["rope.scaling.yarn_beta_fast"] = *fast;
  if (const auto slow = rope.get_number("beta_slow")) out["rope.scaling.yarn_beta_slow"] = *slow;
}

// Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, those between
// interpolated. Returns what each angular frequency is divided by.
std::vector<float> llama3_divisors(const Section& rope, double base, int64_t dimensions) {
  const double factor = rope.require_positive("factor");
  const double low = rope.require_positive("low_freq_factor");
  const double high = rope.require_positive("high_freq_factor");
  const auto original = static_cast<double>(rope.require_count("original_max_position_embeddings"));
  if (high <= low)
    fail(ErrorKind::kInvalidInput, "{}: high_freq_factor {} must be above low_freq_factor {}",
         rope.where(), high, low);
  std::vector<float> divisors(static_cast<size_t>(dimensions / 2));
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(dimensions);
    const double turns = original / (2 * std::numbers::pi * std::pow(base, exponent));
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    divisors[i] = static_cast<float>(1.0 / ((1.0 - kept) / factor + kept));
  }
  return divisors;
}

// transformers 4 writes rope_theta beside rope_scaling; 5 writes both into rope_parameters.
void translate_rope(const Section& config, HfConfig& out, int64_t head_dim,
                    int64_t context_length) {
  const json nothing = json::object();
  const json* found = config.find("rope_parameters");
  if (found == nullptr) found = config.find("rope_scaling");
  const Section rope(found == nullptr ? nothing : *found, config.where() + ": RoPE parameters");

  auto base = rope.get_number("rope_theta");
  if (!base) base = config.get_number("rope_theta");
  const double freq_base = base.value_or(10000.0);
  if (freq_base <= 1)
    fail(ErrorKind::kInvalidInput, "{}: rope_theta is {}, expected more than 1", config.where(),
         freq_base);
  auto partial = rope.get_number("partial_rotary_factor");
  if (!partial) partial = config.get_number("partial_rotary_factor");
  const double fraction = partial.value_or(1.0);
  if (!(fraction > 0 && fraction <= 1))
    fail(ErrorKind::kInvalidInput, "{}: partial_rotary_factor is {}, expected up to 1",
         config.where(), fraction);
  const auto dimensions = static_cast<int64_t>(static_cast<double>(head_dim) * fraction);
  out.hyperparameters["rope.freq_base"] = freq_base;
  out.hyperparameters["rope.dimension_count"] = dimensions;

  auto type = rope.get_string("rope_type");
  if (!type) type = rope.get_string("type");
  const std::string scaling = type.value_or("default");
  if (scaling == "default" || scaling == "dynamic") return;
  if (scaling == "linear") {
    out.hyperparameters["rope.scaling.type"] = "linear";
    out.hyperparameters["rope.scaling.factor"] = rope.require_positive("factor");
  } else if (scaling == "yarn") {
    translate_yarn(rope, context_length, out.hyperparameters);
  } else if (scaling == "llama3") {
    out.rope_freqs = llama3_divisors(rope, freq_base, dimensions);
  } else {
    fail(ErrorKind::kUnsupported,
         "{}: RoPE scaling '{}' is not supported (default, linear, dynamic, "
         "yarn and llama3 are)",
         config.where(), scaling);
  }
}

// Mixtures of experts as DeepSeek's configurations name them (arXiv 2412.19437), and Megrez2's
// experts_shared_frequency and pre_gate.
void translate_experts(const Section& config, Hyperparameters& h) {
  if (config.find("n_routed_experts") == nullptr) return;
  const auto zero_or_count = [&](const char* key) -> int64_t {
    const json* value = config.find(key);
    return value == nullptr || *value == 0 ? 0 : config.require_count(key);
  };
  h["expert_count"] = config.require_count("n_routed_experts");
  h["expert_used_count"] = config.require_count("num_experts_per_tok");
  h["expert_feed_forward_length"] = config.require_count("moe_intermediate_size");
  h["expert_shared_count"] = zero_or_count("n_shared_experts");
  h["leading_dense_block_count"] = zero_or_count("first_k_dense_replace");
  h["expert_weights_scale"] = config.get_number("routed_scaling_factor").value_or(1.0);
  h["expert_weights_norm"] =
      config.find("norm_topk_prob") == nullptr || config.get_bool("norm_topk_prob");
  h["expert_group_count"] = config.get_count("n_group").value_or(1);
  h["expert_group_used_count"] = config.get_count("topk_group").value_or(1);
  const std::string scoring = config.get_string("scoring_func").value_or("sigmoid");
  if (scoring != "sigmoid")
    fail(ErrorKind::kUnsupported, "{}: scoring_func '{}' is not supported, only sigmoid",
         config.where(), scoring);
  h["expert_gating_func"] = int64_t{2};
  if (config.get_count("moe_layer_freq").value_or(1) != 1)
    fail(ErrorKind::kUnsupported, "{}: moe_layer_freq {} is not supported, only 1", config.where(),
         *config.get_count("moe_layer_freq"));
  if (const auto frequency = config.get_count("experts_shared_frequency"))
    h["expert_shared_frequency"] = *frequency;
  if (config.find("pre_gate") != nullptr) h["expert_pre_gate"] = config.get_bool("pre_gate");
}

}  // namespace

HfConfig translate_hf_config(const json& json_config, const std::string& name) {
  const Section config(json_config, name);
  const Family& family = family_of(config);
  refuse_what_would_change_results(config);
  HfConfig out;
  out.architecture = family.architecture;
  out.tied_embeddings = config.get_bool("tie_word_embeddings");

  const int64_t hidden = config.require_count("hidden_size");
  const int64_t heads = config.require_count("num_attention_heads");
  const int64_t context = config.get_count("max_position_embeddings").value_or(2048);
  auto head_dim = config.get_count("head_dim");
  if (!head_dim) head_dim = family.default_head_dim != 0 ? family.default_head_dim : hidden / heads;
  Hyperparameters& h = out.hyperparameters;
  h["block_count"] = config.require_count("num_hidden_layers");
  h["context_length"] = context;
  h["embedding_length"] = hidden;
  h["feed_forward_length"] = config.require_count("intermediate_size");
  h["vocab_size"] = config.require_count("vocab_size");
  h["attention.head_count"] = heads;
  h["attention.head_count_kv"] = config.get_count("num_key_value_heads").value_or(heads);
  h["attention.key_length"] = *head_dim;
  h["attention.value_length"] = *head_dim;
  h["attention.layer_norm_rms_epsilon"] = config.get_number("rms_norm_eps").value_or(1e-6);
  if (family.slides_always)
    if (const auto window = config.get_count("sliding_window"))
      h["attention.sliding_window"] = *window;
  translate_rope(config, out, *head_dim, context);
  translate_experts(config, h);
  return out;
}

std::optional<std::string> gguf_tensor_name(std::string_view name) {
  static const std::map<std::string_view, std::string_view> kOutside = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  static const std::map<std::string_view, std::string_view> kInLayer = {
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"mlp.gate", "ffn_gate_inp"},
      {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
      {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
      {"mlp.shared_experts.down_proj", "ffn_down_shexp"}};
  static const std::map<std::string_view, std::string_view> kInExpert = {
      {"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"}, {"down_proj", "ffn_down_exps"}};
  if (const auto it = kOutside.find(name); it != kOutside.end()) return std::string(it->second);

  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const size_t dot = name.find('.'), last = name.rfind('.');
  if (dot == name.npos || dot == 0 || last <= dot || dot > 9) return std::nullopt;
  const std::string_view layer = name.substr(0, dot), suffix = name.substr(last);
  if (layer.find_first_not_of("0123456789") != layer.npos) return std::nullopt;
  if (name.substr(dot + 1) == "mlp.gate.e_score_correction_bias")
    return fmt::format("blk.{}.exp_probs_b.bias", layer);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  constexpr std::string_view kExpert = "mlp.experts.";
  if (const std::string_view rest = name.substr(dot + 1, last - dot - 1);
      rest.starts_with(kExpert)) {
    const std::string_view expert = rest.substr(kExpert.size(), rest.rfind('.') - kExpert.size());
    const auto matrix = kInExpert.find(rest.substr(rest.rfind('.') + 1));
    if (expert.empty() || expert.size() > 6 ||
        expert.find_first_not_of("0123456789") != expert.npos || matrix == kInExpert.end())
      return std::nullopt;
    return fmt::format("blk.{}.{}.{}{}", layer, matrix->second, expert, suffix);
  }
  const auto it = kInLayer.find(name.substr(dot + 1, last - dot - 1));
  if (it == kInLayer.end()) return std::nullopt;
  return fmt::format("blk.{}.{}{}", layer, it->second, suffix);
}

}  // namespace weft::formats
