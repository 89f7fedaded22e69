// A model's files, whatever their container: metadata and tensors under one set of names. GGUF's
// names are used for both ("llama.block_count", "blk.0.attn_q.weight"); a Hugging Face folder is
// presented under them too, so that models load one way.
//
// Hyper-parameters, by key without the architecture (a folder's config.json is translated into
// them):
//   block_count, context_length, embedding_length, feed_forward_length           int
//   attention.head_count; attention.head_count_kv (absent: head_count)           int
//   attention.key_length (absent: embedding_length / head_count)                 int, head_dim
//   attention.value_length                                                       int, as key_length
//   attention.layer_norm_rms_epsilon                                             float
//   attention.sliding_window (absent: none)                                      int, tokens
//   vocab_size (GGUF files may leave it out: the rows of token_embd.weight)      int
//   rope.freq_base (absent: 10000)                                               float
//   rope.dimension_count (absent: head_dim)                                      int
//   rope.scaling.type (absent: none)                       "none", "linear" or "yarn"
//   rope.scaling.factor                                    float, positions are divided by it
//   rope.scaling.original_context_length                   int, yarn
//   rope.scaling.yarn_beta_fast (32), yarn_beta_slow (1)   float
//   rope.scaling.yarn_attn_factor (1)                      float; sin and cos are multiplied by it
//   times
//                                                          (1 + 0.1 ln(factor))
// of mixtures of experts:
//   expert_count, expert_used_count, expert_feed_forward_length                  int
//   leading_dense_block_count (absent: 0)                                        int, layers
//   without expert_shared_feed_forward_length (absent: expert_shared_count (absent: 0) times the
//   experts') expert_gating_func (absent: 2)                                               int, 2 =
//   sigmoid expert_weights_norm (absent: true)                                           bool
//   expert_weights_scale (absent: 1)                                             float
//   expert_group_count, expert_group_used_count (absent: 1)                      int
//   expert_shared_frequency (absent: as the tensors lie)       int, layers that share their experts
//   expert_pre_gate (absent: the architecture's)               bool, gates read the layer before
// whose routed experts are stacked, blk.I.ffn_gate_exps.weight (experts, out, in), or, in folders,
// tensors of their own: blk.I.ffn_gate_exps.J.weight. And, for Llama 3's scaling, the tensor
// rope_freqs.weight (rope dimensions / 2) f32: each angular frequency is divided by its value. A
// folder whose config asks for "llama3" has that tensor too. Folders with "dynamic" scaling show
// none: within context_length it does nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/tensor.h"

namespace weft::formats {

class Tokenizer;
class GgufFile;

using Hyperparameter = std::variant<int64_t, double, std::string, bool>;
using Hyperparameters = std::map<std::string, Hyperparameter, std::less<>>;

// Immutable, so thread-safe. Tensor views live as long as the checkpoint; their data need not be
// aligned to its type.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual const std::string& name() const = 0;  // file or folder, for messages
  virtual std::string architecture()
      const = 0;  // "llama", "qwen2", "qwen3"; kInvalidInput if absent
  // GGUF stores Llama's q and k permuted for interleaved RoPE; Hugging Face does not.
  virtual bool rope_interleaved() const = 0;

  // Hyper-parameters by GGUF key without the architecture: get_int("block_count") reads
  // "llama.block_count". Nothing if absent; kInvalidInput naming the key if of another type.
  virtual std::optional<int64_t> get_int(std::string_view key) const = 0;
  virtual std::optional<double> get_float(std::string_view key) const = 0;
  virtual std::optional<std::string> get_string(std::string_view key) const = 0;
  virtual std::optional<bool> get_bool(std::string_view key) const = 0;
  int64_t require_int(std::string_view key) const;  // kInvalidInput names the key
  double require_float(std::string_view key) const;
  // All of them that are single values (arrays are left out).
  virtual Hyperparameters hyperparameters() const = 0;

  virtual std::optional<TensorView> find(std::string_view tensor) const = 0;
  TensorView require(std::string_view tensor) const;          // kInvalidInput names the tensor
  virtual std::vector<std::string> tensor_names() const = 0;  // in the file's order
  // Where in which file a tensor's data lie, for reads that go past the memory map.
  struct Location {
    std::filesystem::path file;
    size_t offset = 0;
  };
  virtual Location locate(const void* data) const = 0;  // data of one of the tensors
  // The tensor has been packed: its pages may leave memory.
  virtual void release(const TensorView& tensor) const = 0;

  // nullptr-free: kInvalidInput if the files carry none (tests of models use none).
  virtual std::unique_ptr<Tokenizer> load_tokenizer() const = 0;
  virtual std::optional<std::string> chat_template() const = 0;

  // The file's metadata where the container is GGUF, else nullptr.
  virtual const GgufFile* gguf() const { return nullptr; }
};

// A .gguf file, or a Hugging Face folder (config.json, *.safetensors or a sharded index,
// tokenizer.json, tokenizer_config.json / chat_template.jinja). kNotFound, kInvalidInput.
std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path);

}  // namespace weft::formats
