// The Llama family (arXiv 2302.13971, 2307.09288, 2407.21783): Llama, SmolLM2, Mistral (arXiv
// 2310.06825: a sliding window), Qwen2 (arXiv 2407.10671: biases on q, k and v) and Qwen3 (arXiv
// 2505.09388: norms on the heads of q and k). Pre-norm layers of grouped-query attention with
// rotary positions and a SwiGLU MLP; the head is the embedding's matrix or its own.
#pragma once

#include <memory>

#include "formats/checkpoint.h"
#include "models/language_model.h"

namespace weft::models {

// What an architecture's name adds to its hyper-parameters. Biases that are not required are used
// where the file has them.
struct LlamaVariant {
  bool needs_qkv_bias = false;
  bool has_qk_norm = false;
};

struct LlamaConfig : LanguageModelConfig {
  LlamaVariant variant;
  float norm_epsilon = 1e-5f;
  size_t sliding_window = 0;  // tokens; 0 = all
};

LlamaConfig read_llama_config(const formats::Checkpoint& checkpoint, LlamaVariant variant);
MemoryPlan plan_llama(const formats::Checkpoint& checkpoint, const LlamaConfig& config,
                      kernels::KvFormat kv, size_t max_batch_tokens);
std::unique_ptr<LanguageModel> load_llama(std::shared_ptr<const formats::Checkpoint> checkpoint,
                                          const LlamaConfig& config, const CoreSet& cores,
                                          const ProgressFn& progress, HeadLoading head,
                                          Arena* arena);

}  // namespace weft::models
