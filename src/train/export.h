// What training leaves: a Hugging Face folder (config.json, model.safetensors, tokenizer files) and
// a GGUF made from it.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "train/model_shape.h"

namespace weft::train {

struct ExportOptions {
  bool is_bf16 = true;                        // else f32
  std::string tokenizer;                      // a folder or .gguf whose tokenizer goes along
  const formats::Checkpoint* from = nullptr;  // the model that training began with, if any
};

// The tokenizer's files: a folder's as they are, a .gguf's translated. kUnsupported if they cannot
// be.
void write_tokenizer(const std::string& from, const std::filesystem::path& folder);
// kInvalidInput names the tensor that holds what is no number.
void check_finite(const ParameterTable& table, std::span<const float> weights);
// Each file appears whole or not at all. kIo; kUnsupported for a tokenizer that the folder cannot
// carry.
void write_hf_folder(const std::filesystem::path& folder, const ModelShape& shape,
                     const ParameterTable& table, std::span<const float> weights,
                     std::span<const float> router_bias, const ExportOptions& options);
// `type` as `weft quantize --type`.
void write_gguf(const std::filesystem::path& folder, const std::filesystem::path& out,
                const std::string& type, const CoreSet& cores);

}  // namespace weft::train
