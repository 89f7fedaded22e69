// The architectures that language models come in, by the name their files carry.
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "models/language_model.h"
#include "models/llama.h"
#include "models/megrez2.h"

namespace weft::models {
namespace {

using formats::Checkpoint;

struct Architecture {
  std::string_view name;
  AttentionVariant attention;
  std::optional<MixtureVariant> mixture = {};
};

constexpr Architecture kArchitectures[] = {
    {"llama", {}},
    {"qwen2", {.needs_qkv_bias = true}},
    {"qwen3", {.has_qk_norm = true}},
    {"megrez-moe", {}, MixtureVariant{.pre_gate = true}},
    {"dots1", {.has_qk_norm = true}, MixtureVariant{}},
};

const Architecture& find(const Checkpoint& checkpoint) {
  const std::string wanted = checkpoint.architecture();
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == wanted) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  fail(ErrorKind::kUnsupported, "{}: architecture '{}' is not supported. Known are {}.",
       checkpoint.name(), wanted, known);
}

Megrez2Config read_mixture(const Checkpoint& checkpoint, const Architecture& a) {
  return read_megrez2_config(checkpoint, a.attention, *a.mixture);
}

}  // namespace

std::unique_ptr<LanguageModel> load_language_model(std::shared_ptr<const Checkpoint> checkpoint,
                                                   const CoreSet& cores, const ProgressFn& progress,
                                                   HeadLoading head, Arena* arena,
                                                   const OpenExperts& open_experts,
                                                   std::shared_ptr<TensorTeam> team) {
  const Architecture& a = find(*checkpoint);
  if (a.mixture) {
    if (team)
      fail(ErrorKind::kUnsupported,
           "{}: a mixture of experts is not divided by tensor parallelism. Use sequence parallelism.",
           checkpoint->name());
    const Megrez2Config config = read_mixture(*checkpoint, a);
    return load_megrez2(std::move(checkpoint), config, cores, progress, head, arena, open_experts);
  }
  const TransformerConfig config = read_llama_config(*checkpoint, a.attention);
  return load_llama(std::move(checkpoint), config, cores, progress, head, arena, std::move(team));
}

void LanguageModel::head(const float*, size_t, float*, Workspace&, const CoreSet&) const {
  fail(ErrorKind::kUnsupported, "models of architecture '{}' have no head apart from their layers",
       config().architecture);
}

LanguageModelConfig read_config(const Checkpoint& checkpoint) {
  const Architecture& a = find(checkpoint);
  if (a.mixture) return read_mixture(checkpoint, a);
  return read_llama_config(checkpoint, a.attention);
}

MemoryPlan plan_memory(const Checkpoint& checkpoint, kernels::KvFormat kv, size_t max_batch_tokens,
                       size_t num_ranks) {
  const Architecture& a = find(checkpoint);
  if (a.mixture) return plan_megrez2(checkpoint, read_mixture(checkpoint, a), kv, max_batch_tokens);
  return plan_llama(checkpoint, read_llama_config(checkpoint, a.attention), kv, max_batch_tokens,
                    num_ranks);
}

}  // namespace weft::models
