// A model's files, whatever their container: metadata and tensors under one set of names. GGUF's names
// are used for both ("llama.block_count", "blk.0.attn_q.weight"); a Hugging Face folder is presented
// under them too, so that models load one way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"

namespace weft::formats {

class Tokenizer;

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual const std::string& name() const = 0;  // file or folder, for messages
  virtual std::string architecture() const = 0;  // "llama", "qwen2", "qwen3"; kInvalidInput if absent
  // GGUF stores Llama's q and k permuted for interleaved RoPE; Hugging Face does not.
  virtual bool rope_interleaved() const = 0;

  // Hyper-parameters by GGUF key without the architecture: get_int("block_count") reads
  // "llama.block_count". Arrays: get_floats("rope.scaling.short_factor").
  virtual std::optional<int64_t> get_int(std::string_view key) const = 0;
  virtual std::optional<double> get_float(std::string_view key) const = 0;
  virtual std::optional<std::string> get_string(std::string_view key) const = 0;
  int64_t require_int(std::string_view key) const;     // kInvalidInput names the key
  double require_float(std::string_view key) const;

  virtual std::optional<TensorView> find(std::string_view tensor) const = 0;
  TensorView require(std::string_view tensor) const;   // kInvalidInput names the tensor
  virtual std::vector<std::string> tensor_names() const = 0;
  // The tensor has been packed: its pages may leave memory.
  virtual void release(const TensorView& tensor) const = 0;

  // nullptr-free: kInvalidInput if the files carry none (tests of models use none).
  virtual std::unique_ptr<Tokenizer> load_tokenizer() const = 0;
  virtual std::optional<std::string> chat_template() const = 0;
};

// A .gguf file, or a Hugging Face folder (config.json, *.safetensors or a sharded index,
// tokenizer.json, tokenizer_config.json / chat_template.jinja). kNotFound, kInvalidInput.
std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path);

}  // namespace weft::formats
