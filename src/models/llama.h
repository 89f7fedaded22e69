// The Llama family (arXiv 2302.13971, 2307.09288, 2407.21783): Llama, SmolLM2, Mistral (arXiv
// 2310.06825: a sliding window), Qwen2 (arXiv 2407.10671: biases on q, k and v) and Qwen3 (arXiv
// 2505.09388: norms on the heads of q and k). Each layer's attention is followed by a SwiGLU MLP.
#pragma once

#include <memory>

#include "formats/checkpoint.h"
#include "models/language_model.h"
#include "models/transformer.h"

namespace weft::models {

// kUnsupported for a mixture of experts; else as read_transformer_config.
TransformerConfig read_llama_config(const formats::Checkpoint& checkpoint,
                                    AttentionVariant variant);
MemoryPlan plan_llama(const formats::Checkpoint& checkpoint, const TransformerConfig& config,
                      kernels::KvFormat kv, size_t max_batch_tokens, size_t num_ranks);
std::unique_ptr<LanguageModel> load_llama(std::shared_ptr<const formats::Checkpoint> checkpoint,
                                          const TransformerConfig& config, const CoreSet& cores,
                                          const ProgressFn& progress, HeadLoading head,
                                          Arena* arena, std::shared_ptr<TensorTeam> team);

}  // namespace weft::models
