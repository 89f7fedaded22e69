#include "models/llama.h"

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace weft::models {
namespace {

using formats::Checkpoint;

struct Layer {
  Attention attention;
  std::vector<float> mlp_norm;  // (E)
  Mlp mlp;                      // of width F = intermediate_size
};

class Llama final : public Transformer {
 public:
  Llama(std::shared_ptr<const Checkpoint> checkpoint, const TransformerConfig& config,
        const CoreSet& cores, const ProgressFn& progress, HeadLoading head, Arena* arena,
        std::shared_ptr<TensorTeam> team);

  const LanguageModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override;
  std::unique_ptr<Workspace> make_workspace() const override {
    return std::make_unique<TransformerWorkspace>();
  }
  void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
               Workspace& workspace, const CoreSet& cores) const override;

 private:
  TransformerConfig config_;
  std::vector<Layer> layers_;
};

Llama::Llama(std::shared_ptr<const Checkpoint> checkpoint, const TransformerConfig& config,
             const CoreSet& cores, const ProgressFn& progress, HeadLoading head, Arena* arena,
             std::shared_ptr<TensorTeam> team)
    : Transformer(checkpoint, config, std::move(team)), config_(config) {
  WeightReader weights(*checkpoint, cores, progress, arena);
  read_embedding(weights);
  for (size_t i = 0; i < config.num_layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    Layer& layer = layers_.emplace_back();
    layer.attention = read_attention(weights, i);
    layer.mlp_norm = weights.vector(prefix + "ffn_norm.weight", config.hidden_size);
    layer.mlp = read_mlp(weights, prefix, "", config.intermediate_size);
  }
  read_head(weights, head);
  weights.finish();
}

size_t Llama::weight_bytes() const {
  size_t bytes = packed_head_bytes();
  for (const Layer& layer : layers_)
    bytes += layer.attention.packed_bytes() + layer.mlp.packed_bytes();
  return bytes;
}

void Llama::forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
                    Workspace& workspace, const CoreSet& cores) const {
  auto& w = static_cast<TransformerWorkspace&>(workspace);
  const size_t num_tokens = begin(batch, w, cores);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    add_attention(layer.attention, i, batch, cache, num_tokens, layer.mlp_norm, w, cores);
    add_mlp(layer.mlp, num_tokens, w, cores);
  }
  finish(batch, logits, w, cores);
}

}  // namespace

TransformerConfig read_llama_config(const Checkpoint& checkpoint, AttentionVariant variant) {
  TransformerConfig c = read_transformer_config(checkpoint, variant);
  if (checkpoint.get_int("expert_count").value_or(0) > 0)
    fail(ErrorKind::kUnsupported, "{}: a mixture of {} experts is not supported for '{}'",
         checkpoint.name(), *checkpoint.get_int("expert_count"), c.architecture);
  return c;
}

MemoryPlan plan_llama(const Checkpoint& checkpoint, const TransformerConfig& config,
                      kernels::KvFormat kv, size_t max_batch_tokens, size_t num_ranks) {
  return plan_transformer(checkpoint, config, kv, max_batch_tokens, num_ranks);
}

std::unique_ptr<LanguageModel> load_llama(std::shared_ptr<const Checkpoint> checkpoint,
                                          const TransformerConfig& config, const CoreSet& cores,
                                          const ProgressFn& progress, HeadLoading head,
                                          Arena* arena, std::shared_ptr<TensorTeam> team) {
  return std::make_unique<Llama>(std::move(checkpoint), config, cores, progress, head, arena,
                                 std::move(team));
}

}  // namespace weft::models
