// A Hugging Face checkpoint folder under GGUF's names: config.json becomes hyper-parameters,
// tensors are renamed, Llama 3's RoPE scaling becomes the tensor rope_freqs.weight. Weights stay as
// they lie.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"

namespace weft::formats {

// kNotFound without config.json or weights; kUnsupported for another architecture, activation,
// quantisation, tensor or RoPE scaling than listed in checkpoint.h and docs/models.md.
std::unique_ptr<Checkpoint> open_hf_folder(const std::filesystem::path& folder);

// What config.json says, in GGUF's words.
struct HfConfig {
  std::string architecture;  // GGUF's name
  Hyperparameters hyperparameters;
  std::vector<float> rope_freqs;  // empty unless RoPE is scaled as in Llama 3
  bool tied_embeddings = false;   // lm_head.weight, if present, is a copy
};
HfConfig translate_hf_config(const nlohmann::json& config, const std::string& name);

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; nothing if there is none.
std::optional<std::string> gguf_tensor_name(std::string_view hf_name);

}  // namespace weft::formats
