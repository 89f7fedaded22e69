// Megrez2 (arXiv 2507.17728) and mixtures of experts of its kind. After one dense layer or more,
// each layer adds to a shared MLP the best k of many experts; n consecutive layers use one pool of
// experts, each with a router of its own, and a router may read the normalised input of the MLP one
// layer before (pre-gating): what a layer will want is known a whole layer earlier. n = 1 without
// pre-gating is the ordinary mixture of DeepSeek's kind (dots.llm1: arXiv 2506.05767).
#pragma once

#include <memory>

#include "formats/checkpoint.h"
#include "models/expert_store.h"
#include "models/language_model.h"
#include "models/router.h"
#include "models/transformer.h"

namespace weft::models {

// What an architecture's name says where the file does not.
struct MixtureVariant {
  bool pre_gate = false;
};

struct Megrez2Config : TransformerConfig {
  RouterShape router;
  size_t expert_width = 0;      // F of a routed expert
  size_t shared_width = 0;      // F of the shared one, 0: none
  size_t first_dense = 0;       // layers before the first that has experts
  size_t layers_per_group = 1;  // that share their experts
  bool pre_gate = false;

  size_t num_moe_layers() const { return num_layers - first_dense; }
};

// kInvalidInput names the hyper-parameter or tensor; also where the file's sharing frequency and
// the layers that hold experts disagree.
Megrez2Config read_megrez2_config(const formats::Checkpoint& checkpoint, AttentionVariant attention,
                                  MixtureVariant mixture);
MemoryPlan plan_megrez2(const formats::Checkpoint& checkpoint, const Megrez2Config& config,
                        kernels::KvFormat kv, size_t max_batch_tokens);
// `open_experts`: empty for all in memory.
std::unique_ptr<LanguageModel> load_megrez2(std::shared_ptr<const formats::Checkpoint> checkpoint,
                                            const Megrez2Config& config, const CoreSet& cores,
                                            const ProgressFn& progress, HeadLoading head,
                                            Arena* arena, const OpenExperts& open_experts);

}  // namespace weft::models
