// The architectures that language models come in, by the name their files carry.
#include <string>
#include <string_view>

#include "base/error.h"
#include "models/language_model.h"
#include "models/llama.h"

namespace weft::models {
namespace {

using formats::Checkpoint;

struct Architecture {
  std::string_view name;
  LlamaVariant variant;
};

constexpr Architecture kArchitectures[] = {
    {"llama", {}},
    {"qwen2", {.needs_qkv_bias = true}},
    {"qwen3", {.has_qk_norm = true}},
};

LlamaConfig read(const Checkpoint& checkpoint) {
  const std::string wanted = checkpoint.architecture();
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == wanted) return read_llama_config(checkpoint, architecture.variant);
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  fail(ErrorKind::kUnsupported, "{}: architecture '{}' is not supported. Known are {}.",
       checkpoint.name(), wanted, known);
}

}  // namespace

std::unique_ptr<LanguageModel> load_language_model(std::shared_ptr<const Checkpoint> checkpoint,
                                                   const CoreSet& cores, const ProgressFn& progress,
                                                   HeadLoading head, Arena* arena) {
  const LlamaConfig config = read(*checkpoint);
  return load_llama(std::move(checkpoint), config, cores, progress, head, arena);
}

void LanguageModel::head(const float*, size_t, float*, Workspace&, const CoreSet&) const {
  fail(ErrorKind::kUnsupported, "models of architecture '{}' have no head apart from their layers",
       config().architecture);
}

LanguageModelConfig read_config(const Checkpoint& checkpoint) { return read(checkpoint); }

MemoryPlan plan_memory(const Checkpoint& checkpoint, kernels::KvFormat kv,
                       size_t max_batch_tokens) {
  return plan_llama(checkpoint, read(checkpoint), kv, max_batch_tokens);
}

}  // namespace weft::models
