#include "formats/hf_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/tokenizer.h"

namespace weft::formats {
namespace {

using nlohmann::json;
const std::filesystem::path kData = WEFT_SOURCE_DIR "/tests/data/hf_folder";

TEST(hf_folder, llama_reads_under_ggufs_names) {
  const auto model = open_checkpoint(kData / "llama");
  EXPECT_EQ(model->architecture(), "llama");
  EXPECT_FALSE(model->rope_interleaved());
  EXPECT_EQ(model->require_int("block_count"), 2);
  EXPECT_EQ(model->require_int("context_length"), 256);
  EXPECT_EQ(model->require_int("embedding_length"), 32);
  EXPECT_EQ(model->require_int("feed_forward_length"), 64);
  EXPECT_EQ(model->require_int("vocab_size"), 48);
  EXPECT_EQ(model->require_int("attention.head_count"), 4);
  EXPECT_EQ(model->require_int("attention.head_count_kv"), 2);
  EXPECT_EQ(model->require_int("attention.key_length"), 8);
  EXPECT_EQ(model->require_int("rope.dimension_count"), 8);
  EXPECT_EQ(model->require_float("attention.layer_norm_rms_epsilon"), 1e-6);
  EXPECT_EQ(model->require_float("rope.freq_base"), 500000.0);
  EXPECT_EQ(model->get_string("rope.scaling.type"), std::nullopt);
  EXPECT_EQ(model->get_int("attention.sliding_window"), std::nullopt);
  EXPECT_EQ(model->find("output.weight"), std::nullopt) << "tied";
  const TensorView k = model->require("blk.1.attn_k.weight");
  EXPECT_EQ(k.dtype, DType::kBF16);
  EXPECT_EQ(k.shape, (Shape{16, 32}));
  EXPECT_EQ(model->require("rope_freqs.weight").shape, (Shape{4}));
  // 2 layers of 9 tensors, embedding, final norm, RoPE.
  EXPECT_EQ(model->tensor_names().size(), 21u);
  EXPECT_EQ(model->gguf(), nullptr);
  for (const std::string& name : model->tensor_names()) model->release(model->require(name));
}

TEST(hf_folder, mistral_has_a_window_and_its_own_head_dim) {
  const auto model = open_checkpoint(kData / "mistral");
  EXPECT_EQ(model->architecture(), "llama");
  EXPECT_EQ(model->get_int("attention.sliding_window"), 96);
  EXPECT_EQ(model->get_int("attention.key_length"), 16);
  EXPECT_EQ(model->require("output.weight").shape, (Shape{48, 32}));
  EXPECT_EQ(model->require("blk.0.attn_q.weight").shape, (Shape{64, 32}));
}

TEST(hf_folder, qwen2_has_biases_and_reads_from_shards) {
  const auto model = open_checkpoint(kData / "qwen2");
  EXPECT_EQ(model->architecture(), "qwen2");
  EXPECT_EQ(model->require("blk.1.attn_v.bias").shape, (Shape{16}));
  EXPECT_EQ(model->require_float("attention.layer_norm_rms_epsilon"), 1e-5);
  EXPECT_EQ(model->get_int("attention.sliding_window"), std::nullopt);
  EXPECT_EQ(model->tensor_names().size(), 2u * 12 + 3);
  EXPECT_EQ(model->chat_template(), "yes") << "the one named default";
}

TEST(hf_folder, qwen3_has_norms_on_q_and_k) {
  const auto model = open_checkpoint(kData / "qwen3");
  EXPECT_EQ(model->architecture(), "qwen3");
  EXPECT_EQ(model->require("blk.0.attn_q_norm.weight").shape, (Shape{16}));
  EXPECT_EQ(model->require("blk.1.attn_k_norm.weight").shape, (Shape{16}));
  EXPECT_EQ(model->chat_template(), "{{ messages[0].content }}") << "the file goes first";
}

TEST(hf_folder, what_is_missing_is_named) {
  const auto model = open_checkpoint(kData / "llama");
  const auto message = [&](auto&& action) -> std::string {
    try {
      action();
      return "no error";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_NE(message([&] { model->require_int("nope"); }).find("'llama.nope' is missing"),
            std::string::npos);
  EXPECT_NE(message([&] { model->require("blk.9.attn_q.weight"); }).find("'blk.9.attn_q.weight'"),
            std::string::npos);
  EXPECT_NE(message([&] { model->load_tokenizer(); }).find("no tokenizer.json"), std::string::npos);
  EXPECT_NE(message([&] { open_checkpoint(kData); }).find("without config.json"),
            std::string::npos);
}

// The angular frequencies that follow from the hyper-parameters, as docs in checkpoint.h have it,
// equal transformers'. YaRN's ramp is the model's to compute; here its ends and the magnitude are
// compared.
TEST(hf_folder, rope_scaling_means_what_transformers_does) {
  for (const json& row : json::parse(read_file(kData / "rope.json"))) {
    json config = json::parse(read_file(kData / "llama" / "config.json"));
    config["head_dim"] = 64;
    config["rope_parameters"] = row["parameters"];
    const HfConfig out = translate_hf_config(config, "config.json");
    const auto number = [&](const char* key, double otherwise) {
      const auto it = out.hyperparameters.find(key);
      return it == out.hyperparameters.end() ? otherwise : std::get<double>(it->second);
    };
    const double base = number("rope.freq_base", 0), factor = number("rope.scaling.factor", 1);
    const std::string type = row["parameters"]["rope_type"];
    const std::vector<double> want = row["inverse_frequency"];
    for (size_t i = 0; i < want.size(); ++i) {
      const double plain = std::pow(base, -2.0 * static_cast<double>(i) / 64.0);
      double got = plain;
      if (!out.rope_freqs.empty()) got /= static_cast<double>(out.rope_freqs[i]);
      if (type == "linear" || (type == "yarn" && i + 1 == want.size())) got /= factor;
      if (type == "yarn" && i != 0 && i + 1 != want.size()) continue;
      // transformers computes in f32: pow and a handful of operations, each within 2^-24.
      EXPECT_NEAR(got, want[i], want[i] * 2e-6) << row["parameters"] << " pair " << i;
    }
    if (type == "yarn") {
      EXPECT_EQ(std::get<std::string>(out.hyperparameters.at("rope.scaling.type")), "yarn");
      EXPECT_NEAR(number("rope.scaling.yarn_attn_factor", 0) * (1 + 0.1 * std::log(factor)),
                  row["magnitude"].get<double>(), 1e-9);
    }
  }
}

TEST(hf_folder, transformers_4_puts_rope_elsewhere) {
  json config = json::parse(read_file(kData / "llama" / "config.json"));
  const json rope = config["rope_parameters"];
  const HfConfig now = translate_hf_config(config, "config.json");
  config.erase("rope_parameters");
  config["rope_theta"] = rope["rope_theta"];
  config["rope_scaling"] = rope;
  config["rope_scaling"].erase("rope_theta");
  const HfConfig before = translate_hf_config(config, "config.json");
  EXPECT_EQ(before.rope_freqs, now.rope_freqs);
  EXPECT_EQ(before.hyperparameters, now.hyperparameters);
  config["rope_scaling"] = nullptr;  // and null where there is none
  EXPECT_TRUE(translate_hf_config(config, "config.json").rope_freqs.empty());
}

TEST(hf_folder, old_configs_leave_defaults_out) {
  const json config = {{"architectures", {"LlamaForCausalLM"}},
                       {"hidden_size", 64},
                       {"num_attention_heads", 4},
                       {"num_hidden_layers", 1},
                       {"intermediate_size", 128},
                       {"vocab_size", 100}};
  const HfConfig out = translate_hf_config(config, "config.json");
  EXPECT_EQ(std::get<int64_t>(out.hyperparameters.at("attention.head_count_kv")), 4);
  EXPECT_EQ(std::get<int64_t>(out.hyperparameters.at("attention.key_length")), 16);
  EXPECT_EQ(std::get<double>(out.hyperparameters.at("rope.freq_base")), 10000.0);
  EXPECT_FALSE(out.tied_embeddings);
}

TEST(hf_folder, configs_that_cannot_be_honoured_are_refused) {
  const struct {
    const char* key;
    json value;
    const char* message;
  } kRows[] = {
      {"architectures", {"GPT2LMHeadModel"}, "'GPT2LMHeadModel' is not supported. Known are Llama"},
      {"architectures", nullptr, "(none named)"},
      {"hidden_act", "gelu", "hidden_act 'gelu'"},
      {"hidden_size", "many", "'hidden_size' is \"many\""},
      {"hidden_size", -32, "'hidden_size' is -32"},
      {"num_hidden_layers", nullptr, "'num_hidden_layers' is missing"},
      {"vocab_size", 1.5, "'vocab_size' is 1.5"},
      {"use_sliding_window", true, "use_sliding_window"},
      {"quantization_config", {{"bits", 4}}, "quantised by another library"},
      {"tie_word_embeddings", "yes", "expected true or false"},
      {"rope_parameters", {{"rope_type", "longrope"}}, "'longrope' is not supported"},
      {"rope_parameters", {{"rope_type", "linear"}}, "'factor' is missing"},
      {"rope_parameters", {{"rope_type", "linear"}, {"factor", 0}}, "'factor' is 0"},
      {"rope_parameters", {{"rope_type", "llama3"}, {"factor", 8}}, "'low_freq_factor' is missing"},
      {"rope_parameters", 3, "not a JSON object"},
      {"rope_parameters", {{"rope_theta", 0.5}}, "rope_theta is 0.5"},
      {"rope_parameters", {{"partial_rotary_factor", 2}}, "partial_rotary_factor is 2"},
  };
  for (const auto& row : kRows) {
    json config = json::parse(read_file(kData / "llama" / "config.json"));
    config[row.key] = row.value;
    try {
      translate_hf_config(config, "config.json");
      ADD_FAILURE() << row.key << " = " << row.value << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(row.message), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find("config.json"), 0u) << error.what();
    }
  }
}

TEST(hf_folder, tensor_names) {
  EXPECT_EQ(gguf_tensor_name("model.layers.12.mlp.down_proj.weight"), "blk.12.ffn_down.weight");
  EXPECT_EQ(gguf_tensor_name("model.layers.0.self_attn.q_proj.bias"), "blk.0.attn_q.bias");
  EXPECT_EQ(gguf_tensor_name("lm_head.weight"), "output.weight");
  EXPECT_EQ(gguf_tensor_name("model.layers.4.mlp.experts.63.down_proj.weight"),
            "blk.4.ffn_down_exps.63.weight");
  EXPECT_EQ(gguf_tensor_name("model.layers.4.mlp.shared_experts.up_proj.weight"),
            "blk.4.ffn_up_shexp.weight");
  EXPECT_EQ(gguf_tensor_name("model.layers.4.mlp.gate.weight"), "blk.4.ffn_gate_inp.weight");
  EXPECT_EQ(gguf_tensor_name("model.layers.4.mlp.gate.e_score_correction_bias"),
            "blk.4.exp_probs_b.bias");
  for (const char* unknown :
       {"", "model.layers.", "model.layers.x.mlp.down_proj.weight", "model.layers.1.weight",
        "model.layers.1.mlp.experts.x.up_proj.weight", "model.layers.1.mlp.experts..up_proj.weight",
        "model.layers.1.mlp.experts.0.w1.weight", "model.layers.1.mlp.experts.up_proj.weight",
        "model.layers.1.mlp.up_proj.scales", "model.layers..mlp.up_proj.weight"})
    EXPECT_EQ(gguf_tensor_name(unknown), std::nullopt) << unknown;
}

}  // namespace
}  // namespace weft::formats
