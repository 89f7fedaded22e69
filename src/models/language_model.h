// A causal language model: weights and a forward pass over a ragged batch of sequences.
// Straight-line code on kernels; no model knows a technique by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/buffer.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/kv_view.h"
#include "models/expert_store.h"

namespace weft::models {

using Token = int32_t;

struct LanguageModelConfig {
  std::string architecture;
  size_t num_layers = 0, hidden_size = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  size_t intermediate_size = 0, vocab_size = 0;
  size_t context_length = 0;  // what the model was trained for
};

enum class LogitsWanted : uint8_t { kNone, kLast, kAll };

// One sequence's new tokens: a prompt, a chunk of one, or the last sampled token.
struct SequenceInput {
  size_t sequence = 0;            // the cache's handle
  std::span<const Token> tokens;  // at least one
  size_t first_position = 0;      // tokens already in the cache
  LogitsWanted logits = LogitsWanted::kLast;
  // (tokens, hidden_size), where wanted: the last layer's outputs after the final norm.
  float* hidden = nullptr;
  float* last_hidden = nullptr;  // (hidden_size), where wanted: of the last token alone
  // Workspace::failure() tells if this sequence could not be computed though others were (an
  // expert's weights could not be read), instead of an exception.
  bool may_fail = false;
};

// Whether the head is packed at once, or when forward() or head() first needs all of it. Until then
// it, and an embedding that is the same matrix, stay in the mapped file.
enum class HeadLoading : uint8_t { kNow, kWhenNeeded };

class TensorTeam;  // teams.h
class SpreadAttention;

// Scratch of one forward pass; belongs to one engine thread, so that two engines share the weights.
class Workspace {
 public:
  virtual ~Workspace() = default;
  // Where set, attention is its business, and the cache is not looked at: the batch is this rank's
  // part of one sequence. Looked at, not owned.
  SpreadAttention* spread = nullptr;
  // Room for so many logits, where the model likes best to write them; kept until the next call.
  virtual float* logits(size_t count) { return logits_.need(count); }
  // What kept the last forward() from computing the input of this index; its keys and values are
  // undefined. Only inputs that may fail have one in models that compute here: others throw.
  virtual const Error* failure(size_t) const { return nullptr; }

 private:
  Scratch<float> logits_;
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const LanguageModelConfig& config() const = 0;
  virtual kernels::KvShape kv_shape() const = 0;
  virtual size_t weight_bytes() const = 0;  // packed, resident

  virtual std::unique_ptr<Workspace> make_workspace() const = 0;

  // Runs all sequences' tokens in one pass, storing keys and values in `cache` (room reserved
  // before). `logits`: one row of vocab_size f32 for each wanted position, in batch order.
  // kInvalidInput for a token outside the vocabulary. Thread-safe across workspaces.
  virtual void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
                       Workspace& workspace, const CoreSet& cores) const = 0;

  // The head apart from the layers (VocabTailor): its matrix (vocab_size, hidden_size) as the file
  // has it, in the mapped file, without bias; no data where a model has no such head.
  virtual TensorView head_weight() const { return {}; }
  // Whoever has read all of head_weight() says so: its pages leave this process until they are
  // looked at again.
  virtual void release_head_weight() const {}
  // Logits (num_rows, vocab_size) of hidden states (num_rows, hidden_size), bit for bit those of
  // the forward pass that made them. Thread-safe across workspaces.
  virtual void head(const float* hidden, size_t num_rows, float* logits, Workspace& workspace,
                    const CoreSet& cores) const;
  virtual size_t packed_head_bytes() const { return 0; }    // now; part of weight_bytes()
  virtual ExpertStore* experts() const { return nullptr; }  // of a mixture of experts
  virtual size_t embedding_bytes() const {
    return 0;
  }  // in the file; 0 where it is the head's matrix
};

// By the checkpoint's architecture (registry.cc lists them). kUnsupported names an unknown
// architecture and the known ones; kInvalidInput a missing, unknown or misshapen tensor. The model
// keeps the checkpoint: an embedding that is not the head's matrix too stays in the mapped file.
// Progress counts bytes of weights. Packed weights go into `arena`, or come from one that another
// process has filled.
std::unique_ptr<LanguageModel> load_language_model(
    std::shared_ptr<const formats::Checkpoint> checkpoint, const CoreSet& cores,
    const ProgressFn& progress = {}, HeadLoading head = HeadLoading::kNow, Arena* arena = nullptr,
    const OpenExperts& open_experts = {},  // empty: all experts in memory
    std::shared_ptr<TensorTeam> team = nullptr);
// With a team, this rank's share of the model: forward() is then called by all ranks of it with the
// same batch, and rank 0 gets the logits. kUnsupported names what cannot be divided.

// What loading will take, from metadata alone: printed and checked before anything is allocated.
struct MemoryPlan {
  size_t weight_bytes = 0;  // packed
  size_t head_bytes = 0;    // of them, the head's: not taken before it is needed with kWhenNeeded
  size_t expert_bytes = 0;  // of them, all routed experts'
  size_t num_experts = 0, largest_expert_bytes = 0;  // routed ones of all layers
  size_t kv_bytes_per_token = 0;
  size_t scratch_bytes = 0;  // of one workspace that runs up to `max_batch_tokens` at a time
};
// kUnsupported and kInvalidInput as load_language_model, as far as the metadata tells.
LanguageModelConfig read_config(const formats::Checkpoint& checkpoint);
MemoryPlan plan_memory(const formats::Checkpoint& checkpoint, kernels::KvFormat kv,
                       size_t max_batch_tokens, size_t num_ranks = 1);  // in a TensorTeam

}  // namespace weft::models
