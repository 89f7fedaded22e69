#include "train/model_shape.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "models/language_model.h"
#include "models/llama.h"
#include "models/megrez2.h"
#include "models/rope.h"

namespace weft::train {
namespace {

using nlohmann::ordered_json;

// What an architecture's name adds, as models/registry.cc has it.
struct Family {
  const char* name;  // in a config
  const char* gguf;
  const char* hf_class;
  const char* hf_type;
  bool qkv_bias, qk_norm, mixture, pre_gate;
};
constexpr Family kFamilies[] = {
    {"llama", "llama", "LlamaForCausalLM", "llama", false, false, false, false},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", "qwen2", true, false, false, false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", "qwen3", false, true, false, false},
    {"megrez2", "megrez-moe", "MegrezMoeForCausalLM", "megrez_moe", false, false, true, true},
    {"dots1", "dots1", "Dots1ForCausalLM", "dots1", false, true, true, false},
};

const Family& family_of_gguf(const std::string& gguf, const std::string& where) {
  for (const Family& family : kFamilies)
    if (gguf == family.gguf) return family;
  fail(ErrorKind::kUnsupported, "{}: models of architecture '{}' cannot be trained", where, gguf);
}

// Puts parameters one behind the other; a group that products take together begins at a multiple of
// 64 values, so that rows are aligned.
class TableWriter {
 public:
  explicit TableWriter(ParameterTable& table) : table_(table) {}
  void align() { table_.size = (table_.size + 63) / 64 * 64; }
  void add(const std::string& name, const Shape& shape, InitialValue initial,
           float deviation = 0.02f) {
    table_.parameters.push_back({name, shape, table_.size, initial, deviation});
    table_.size += shape.elements();
  }

 private:
  ParameterTable& table_;
};

std::string block(size_t layer) { return fmt::format("model.layers.{}.", layer); }

void add_mlp(TableWriter& table, const std::string& prefix, size_t hidden, size_t width,
             float deviation) {
  table.align();
  table.add(prefix + "gate_proj.weight", {width, hidden}, InitialValue::kNormal);
  table.add(prefix + "up_proj.weight", {width, hidden}, InitialValue::kNormal);
  table.align();
  table.add(prefix + "down_proj.weight", {hidden, width}, InitialValue::kNormal, deviation);
}

void add_experts(TableWriter& table, const ModelShape& s, size_t layer, float deviation) {
  const auto prefix = [&](size_t j) { return fmt::format("{}mlp.experts.{}.", block(layer), j); };
  table.align();
  for (size_t j = 0; j < s.num_experts; ++j) {
    table.add(prefix(j) + "gate_proj.weight", {s.expert_width, s.hidden_size},
              InitialValue::kNormal);
    table.add(prefix(j) + "up_proj.weight", {s.expert_width, s.hidden_size}, InitialValue::kNormal);
  }
  table.align();
  for (size_t j = 0; j < s.num_experts; ++j)
    table.add(prefix(j) + "down_proj.weight", {s.hidden_size, s.expert_width},
              InitialValue::kNormal, deviation);
}

// RoPE as config.json words it. Llama 3's divisors cannot be turned back into their parameters.
void add_rope(ordered_json& config, const formats::Checkpoint& from) {
  if (from.find("rope_freqs.weight"))
    fail(ErrorKind::kUnsupported,
         "{}: its RoPE scaling is stored as a table, which config.json cannot say. Start from the "
         "model's Hugging Face folder instead.",
         from.name());
  config["rope_theta"] = from.get_float("rope.freq_base").value_or(10000);
  const std::string type = from.get_string("rope.scaling.type").value_or("none");
  if (type == "none") return;
  ordered_json rope = {{"rope_type", type},
                       {"factor", from.get_float("rope.scaling.factor").value_or(1)}};
  if (type == "yarn") {
    rope["original_max_position_embeddings"] =
        from.require_int("rope.scaling.original_context_length");
    rope["beta_fast"] = from.get_float("rope.scaling.yarn_beta_fast").value_or(32);
    rope["beta_slow"] = from.get_float("rope.scaling.yarn_beta_slow").value_or(1);
    const double factor = rope["factor"];
    rope["attention_factor"] =
        from.get_float("rope.scaling.yarn_attn_factor").value_or(1) * (1 + 0.1 * std::log(factor));
  }
  config["rope_scaling"] = rope;
}

}  // namespace

ModelShape shape_of(const Config& config, size_t vocab_size) {
  const ModelSection& m = config.model;
  ModelShape s;
  for (const Family& family : kFamilies) {
    if (m.architecture != family.name) continue;
    s.architecture = family.gguf;
    s.has_qkv_bias = family.qkv_bias;
    s.has_qk_norm = family.qk_norm;
    if (family.mixture) {
      s.num_experts = m.n_routed_experts;
      s.experts_per_token = m.num_experts_per_tok;
      s.expert_width = m.moe_intermediate_size;
      s.shared_width = m.n_shared_experts * m.moe_intermediate_size;
      s.first_dense = m.first_k_dense_replace;
      s.layers_per_group = m.experts_shared_frequency;
      s.pre_gate = m.pre_gate;
    }
  }
  WEFT_ASSERT(!s.architecture.empty());
  s.vocab_size = vocab_size;
  s.num_layers = m.num_hidden_layers;
  s.hidden_size = m.hidden_size;
  s.context_length = config.context;
  s.num_heads = m.num_attention_heads;
  s.num_kv_heads = m.num_key_value_heads == 0 ? m.num_attention_heads : m.num_key_value_heads;
  s.head_dim = m.head_dim == 0 ? m.hidden_size / m.num_attention_heads : m.head_dim;
  s.intermediate_size = m.intermediate_size;
  s.tied = m.tie_word_embeddings;
  s.rope_theta = m.rope_theta;
  s.rope.style = kernels::RopeStyle::kHalf;
  for (size_t i = 0; i < s.head_dim / 2; ++i)
    s.rope.inverse_frequency.push_back(static_cast<float>(
        std::pow(m.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(s.head_dim))));
  return s;
}

ModelShape shape_of(const formats::Checkpoint& checkpoint) {
  const Family& family = family_of_gguf(checkpoint.architecture(), checkpoint.name());
  const models::AttentionVariant attention{family.qkv_bias, family.qk_norm};
  ModelShape s;
  const auto take = [&](const models::TransformerConfig& c) {
    s.architecture = c.architecture;
    s.vocab_size = c.vocab_size;
    s.num_layers = c.num_layers;
    s.hidden_size = c.hidden_size;
    s.context_length = c.context_length;
    s.num_heads = c.num_heads;
    s.num_kv_heads = c.num_kv_heads;
    s.head_dim = c.head_dim;
    s.intermediate_size = c.intermediate_size;
    s.sliding_window = c.sliding_window;
    s.norm_epsilon = c.norm_epsilon;
  };
  if (family.mixture) {
    const models::Megrez2Config c =
        models::read_megrez2_config(checkpoint, attention, {.pre_gate = family.pre_gate});
    take(c);
    if (c.router.num_groups > 1)
      fail(ErrorKind::kUnsupported,
           "{}: its experts are chosen by groups (n_group {}), which the trainer does not do",
           checkpoint.name(), c.router.num_groups);
    s.num_experts = c.router.num_experts;
    s.experts_per_token = c.router.experts_per_token;
    s.normalise_weights = c.router.normalise;
    s.weights_scale = c.router.scale;
    s.expert_width = c.expert_width;
    s.shared_width = c.shared_width;
    s.first_dense = c.first_dense;
    s.layers_per_group = c.layers_per_group;
    s.pre_gate = c.pre_gate;
  } else {
    take(models::read_llama_config(checkpoint, attention));
  }
  s.has_qk_norm = family.qk_norm;
  s.has_qkv_bias = checkpoint.find("blk.0.attn_q.bias").has_value();
  s.tied = !checkpoint.find("output.weight").has_value();
  if (checkpoint.find("blk.0.attn_output.bias"))
    fail(ErrorKind::kUnsupported, "{}: biases of the attention's output cannot be trained",
         checkpoint.name());
  s.rope = models::read_rope(checkpoint, s.head_dim);
  s.rope.style = kernels::RopeStyle::kHalf;  // weights are brought into Hugging Face's order
  s.rope_theta = checkpoint.get_float("rope.freq_base").value_or(10000);
  if (2 * s.rope.inverse_frequency.size() != s.head_dim)
    fail(ErrorKind::kUnsupported,
         "{}: only part of each head turns with its position (RoPE over {} "
         "of {} values), which the trainer does not do",
         checkpoint.name(), 2 * s.rope.inverse_frequency.size(), s.head_dim);
  return s;
}

const Parameter& ParameterTable::at(const std::string& name) const {
  const auto it = std::find_if(parameters.begin(), parameters.end(),
                               [&](const Parameter& p) { return p.name == name; });
  WEFT_ASSERT(it != parameters.end());
  return *it;
}

size_t ParameterTable::count() const {
  size_t total = 0;
  for (const Parameter& p : parameters) total += p.size();
  return total;
}

ParameterTable parameters_of(const ModelShape& s) {
  ParameterTable table;
  TableWriter writer(table);
  // Matrices that write into the residual stream begin smaller, so that its variance does not grow
  // with depth (GPT-2).
  const float residual = 0.02f / std::sqrt(2 * static_cast<float>(s.num_layers));
  const auto normal = InitialValue::kNormal;
  writer.add("model.embed_tokens.weight", {s.vocab_size, s.hidden_size}, normal);
  for (size_t i = 0; i < s.num_layers; ++i) {
    const std::string attention = block(i) + "self_attn.";
    writer.align();
    writer.add(attention + "q_proj.weight", {s.q_size(), s.hidden_size}, normal);
    writer.add(attention + "k_proj.weight", {s.kv_size(), s.hidden_size}, normal);
    writer.add(attention + "v_proj.weight", {s.kv_size(), s.hidden_size}, normal);
    writer.align();
    writer.add(attention + "o_proj.weight", {s.hidden_size, s.q_size()}, normal, residual);
    if (!s.is_moe(i)) {
      add_mlp(writer, block(i) + "mlp.", s.hidden_size, s.intermediate_size, residual);
      continue;
    }
    if (s.shared_width != 0)
      add_mlp(writer, block(i) + "mlp.shared_experts.", s.hidden_size, s.shared_width, residual);
    if (s.leader(i) == i) add_experts(writer, s, i, residual);
  }
  writer.align();
  if (!s.tied) writer.add("lm_head.weight", {s.vocab_size, s.hidden_size}, normal);
  writer.align();
  table.first_vector = table.size;
  const auto one = InitialValue::kOne, zero = InitialValue::kZero;
  for (size_t i = 0; i < s.num_layers; ++i) {
    const std::string attention = block(i) + "self_attn.";
    writer.align();
    writer.add(block(i) + "input_layernorm.weight", {s.hidden_size}, one);
    writer.align();
    writer.add(block(i) + "post_attention_layernorm.weight", {s.hidden_size}, one);
    if (s.has_qkv_bias) {
      writer.align();
      writer.add(attention + "q_proj.bias", {s.q_size()}, zero);
      writer.add(attention + "k_proj.bias", {s.kv_size()}, zero);
      writer.add(attention + "v_proj.bias", {s.kv_size()}, zero);
    }
    if (s.has_qk_norm) {
      writer.align();
      writer.add(attention + "q_norm.weight", {s.head_dim}, one);
      writer.add(attention + "k_norm.weight", {s.head_dim}, one);
    }
    if (s.is_moe(i)) {
      writer.align();
      writer.add(block(i) + "mlp.gate.weight", {s.num_experts, s.hidden_size}, normal);
    }
  }
  writer.align();
  writer.add("model.norm.weight", {s.hidden_size}, one);
  writer.align();
  return table;
}

std::string router_bias_name(size_t layer) {
  return block(layer) + "mlp.gate.e_score_correction_bias";
}

ordered_json hf_config(const ModelShape& s, const formats::Checkpoint* from, bool is_bf16) {
  const std::string dtype = is_bf16 ? "bfloat16" : "float32";
  if (from != nullptr && from->gguf() == nullptr) {  // the folder's own, with the new number format
    const auto path = std::filesystem::path(from->name()) / "config.json";
    ordered_json config = ordered_json::parse(read_file(path));
    config.erase("dtype");
    config["torch_dtype"] = dtype;
    return config;
  }
  const Family& family = family_of_gguf(s.architecture, "the model");
  ordered_json c = {{"architectures", {family.hf_class}},
                    {"model_type", family.hf_type},
                    {"vocab_size", s.vocab_size},
                    {"hidden_size", s.hidden_size},
                    {"intermediate_size", s.intermediate_size},
                    {"num_hidden_layers", s.num_layers},
                    {"num_attention_heads", s.num_heads},
                    {"num_key_value_heads", s.num_kv_heads},
                    {"head_dim", s.head_dim},
                    {"hidden_act", "silu"},
                    {"max_position_embeddings", s.context_length},
                    {"rms_norm_eps", s.norm_epsilon},
                    {"tie_word_embeddings", s.tied},
                    {"attention_dropout", 0.0},
                    {"initializer_range", 0.02},
                    {"use_cache", true},
                    {"torch_dtype", dtype}};
  if (!s.has_qkv_bias) c["attention_bias"] = false;
  // In double: f32's digits of 1e-5 read badly.
  c["rms_norm_eps"] = std::stod(fmt::format("{:.6g}", s.norm_epsilon));
  if (from != nullptr) {
    add_rope(c, *from);
  } else {
    c["rope_theta"] = s.rope_theta;
  }
  if (s.num_experts != 0) {
    c.update({{"n_routed_experts", s.num_experts},
              {"num_experts_per_tok", s.experts_per_token},
              {"moe_intermediate_size", s.expert_width},
              {"n_shared_experts", s.shared_width / s.expert_width},
              {"first_k_dense_replace", s.first_dense},
              {"moe_layer_freq", 1},
              {"experts_shared_frequency", s.layers_per_group},
              {"pre_gate", s.pre_gate},
              {"scoring_func", "sigmoid"},
              {"topk_method", "noaux_tc"},
              {"n_group", 1},
              {"topk_group", 1},
              {"norm_topk_prob", s.normalise_weights},
              {"routed_scaling_factor", s.weights_scale}});
  }
  return c;
}

}  // namespace weft::train
