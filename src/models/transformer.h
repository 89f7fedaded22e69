// What the models of the Llama kind share: everything but their MLPs. Pre-norm layers of
// grouped-query attention with rotary positions (arXiv 2302.13971, 2305.13245) between an embedding
// and a head that may be the same matrix. Llama and Megrez2 add what stands behind each layer's
// second norm.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "formats/checkpoint.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "models/language_model.h"
#include "models/mlp.h"
#include "models/teams.h"
#include "models/weights.h"

namespace weft::models {

// What an architecture's name adds to its hyper-parameters. Biases that are not required are used
// where the file has them.
struct AttentionVariant {
  bool needs_qkv_bias = false;
  bool has_qk_norm = false;
};

struct TransformerConfig : LanguageModelConfig {
  AttentionVariant variant;
  float norm_epsilon = 1e-5f;
  size_t sliding_window = 0;  // tokens; 0 = all
};

// kInvalidInput names the hyper-parameter and its range, kUnsupported what cannot be computed.
TransformerConfig read_transformer_config(const formats::Checkpoint& checkpoint,
                                          AttentionVariant variant);
// A positive whole number, bounded so that no product of a few of them overflows.
size_t read_count(const formats::Checkpoint& checkpoint, const char* key);
size_t read_count(const formats::Checkpoint& checkpoint, const char* key, size_t otherwise);

MemoryPlan plan_transformer(const formats::Checkpoint& checkpoint, const TransformerConfig& config,
                            kernels::KvFormat kv, size_t max_batch_tokens, size_t num_ranks);

// H query heads, G heads of keys and values, D = head_dim, E = hidden_size; F = the MLP's width. H, G
// and F are this rank's share of the model's where a team computes it.
struct Attention {
  std::vector<float> norm;                    // (E)
  kernels::Linear wq;                         // (H * D, E)
  kernels::Linear wk, wv;                     // (G * D, E)
  std::vector<float> q_bias, k_bias, v_bias;  // as many as outputs, or none
  std::vector<float> q_norm, k_norm;          // (D), Qwen3 only
  kernels::Linear wo;                         // (E, H * D)
  std::vector<float> o_bias;                  // (E) or none

  size_t packed_bytes() const;
};

// Room for T tokens, reused from pass to pass.
struct TransformerWorkspace : Workspace {
  Scratch<float> x;            // (T, E), the residual stream
  Scratch<float> normed;       // (T, E)
  Scratch<float> q, attended;  // (T, H * D)
  Scratch<float> k, v;         // (T, G * D)
  Scratch<float> gate, up;     // (T, F)
  Scratch<float> part;         // (rows, this rank's vocabulary), in a team
  Scratch<float> angles;       // (T, rotary dimensions), see rope_angles()
  kernels::Activations activations;
  kernels::AttentionScratch attention;
  std::vector<kernels::AttentionCall> calls;  // one for each sequence
  std::vector<size_t> attended_tokens;        // of each sequence's, in this layer
  std::vector<kernels::HeadTransform> transforms;  // of each sequence, in this layer
  std::vector<uint32_t> input_of_row;              // which of them a row has
  bool any_transform = false;
  std::vector<size_t> wanted;                 // rows that logits are made of
};

// Runs body(row) for all rows, shared out where they are many: below 32 Ki values (some 10 us) a
// second core costs more than it brings.
template <typename Body>
void for_rows(const CoreSet& cores, size_t num_rows, size_t values_per_row, Body&& body) {
  const size_t grain = std::max<size_t>(1, (32 << 10) / values_per_row);
  cores.parallel_for(num_rows, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row) body(row);
  });
}

// A model reads its weights in the order embedding, layers, head, and runs begin(), its layers,
// finish().
class Transformer : public LanguageModel {
 public:
  kernels::KvShape kv_shape() const override { return {kv_heads_.size(), shape_.head_dim}; }
  TensorView head_weight() const override { return head_weight_; }
  void release_head_weight() const override { checkpoint_->release(head_weight_); }
  void head(const float* hidden, size_t num_rows, float* logits, Workspace& workspace,
            const CoreSet& cores) const override;
  size_t packed_head_bytes() const override { return packed_head_bytes_.load(); }
  size_t embedding_bytes() const override {
    return embedding_.data == nullptr || embedding_.data == head_weight_.data ? 0
                                                                              : embedding_.bytes();
  }

 protected:
  // With a team: this rank's share of the heads, the features of MLPs and the vocabulary.
  Transformer(std::shared_ptr<const formats::Checkpoint> checkpoint, const TransformerConfig& config,
              std::shared_ptr<TensorTeam> team = nullptr);
  void read_embedding(WeightReader& weights);
  Attention read_attention(WeightReader& weights, size_t layer) const;
  // "<prefix>ffn_gate<suffix>.weight" and its like.
  Mlp read_mlp(WeightReader& weights, const std::string& prefix, const std::string& suffix,
               size_t width) const;
  void read_head(WeightReader& weights, HeadLoading head);

  // x = the tokens' embeddings. Returns T, for which the workspace has room.
  size_t begin(std::span<const SequenceInput> batch, TransformerWorkspace& w,
               const CoreSet& cores) const;
  // x += Wo attention(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x)); normed = RMSNorm(x) with
  // `next_norm`
  void add_attention(const Attention& attention, size_t layer, std::span<const SequenceInput> batch,
                     kernels::KvStore& cache, size_t num_tokens, const std::vector<float>& next_norm,
                     TransformerWorkspace& w, const CoreSet& cores) const;
  // normed = RMSNorm(x)
  void norm(const std::vector<float>& weight, size_t num_tokens, TransformerWorkspace& w,
            const CoreSet& cores) const;
  // x += mlp(normed)
  void add_mlp(const Mlp& mlp, size_t num_tokens, TransformerWorkspace& w,
               const CoreSet& cores) const;
  // Logits and hidden states that the batch asks for.
  void finish(std::span<const SequenceInput> batch, float* logits, TransformerWorkspace& w,
              const CoreSet& cores) const;

 private:
  void divide();
  size_t num_heads() const { return kv_heads_.size() * (shape_.num_heads / shape_.num_kv_heads); }
  // x += W activations + bias; in a team, what all ranks' parts of W and of the activations give.
  // And normed = RMSNorm(x), if a norm follows.
  void add_product(const kernels::Linear& weight, const std::vector<float>& bias,
                   const std::vector<float>* next_norm, size_t num_tokens, TransformerWorkspace& w,
                   const CoreSet& cores) const;
  void check(std::span<const SequenceInput> batch) const;
  void rotate(const Attention& attention, size_t num_tokens, TransformerWorkspace& w,
              const CoreSet& cores) const;
  void attend(size_t layer, std::span<const SequenceInput> batch, kernels::KvStore& cache,
              TransformerWorkspace& w, const CoreSet& cores) const;
  void attend_here(const kernels::AttentionShape& shape, size_t layer,
                   std::span<const SequenceInput> batch, kernels::KvStore& cache,
                   TransformerWorkspace& w, const CoreSet& cores) const;
  const kernels::Linear& packed_head(const CoreSet& cores) const;

  std::shared_ptr<const formats::Checkpoint> checkpoint_;  // keeps embedding_ mapped
  TransformerConfig shape_;                                // of the whole model
  std::shared_ptr<TensorTeam> team_;                       // none: this is all of it
  Share kv_heads_, features_, vocabulary_;  // this rank's: G, F, rows of the head
  kernels::RopeTable rope_;
  TensorView embedding_;           // (vocab_size, E) in the file; empty where tied to head_
  TensorView head_weight_;         // (vocab_size, E) in the file
  std::vector<float> final_norm_;  // (E)

  mutable std::once_flag head_once_;  // guards the packing of head_
  mutable kernels::Linear head_;      // (vocabulary_, E), once it is needed
  mutable std::atomic<size_t> packed_head_bytes_{0};
};

}  // namespace weft::models
