#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "formats/random_model.h"
#include "serve/test_model.h"

namespace weft::serve {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemplate =
    "{% if tools %}tools: {{ tools | length }} <tool_call>\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

struct ModelFile {
  ModelFile()
      : path(fs::path(::testing::TempDir()) / ("weft_serve_" + std::to_string(getpid()) + ".gguf")) {
    formats::write_random_model(path, "tiny", formats::quant_mix("q8_0"), 1, CoreSet(), {}, {},
                                kTemplate);
  }
  ~ModelFile() { fs::remove(path); }
  fs::path path;
};

}  // namespace

std::unique_ptr<text::TextModel> load_test_model(const text::TextModelOptions& options) {
  static const ModelFile file;
  return std::make_unique<text::TextModel>(
      text::TextModel::load(file.path, options, CoreSet()));
}

PartitionedModel serve_partitioned_test_model(const TestModelOptions& options) {
  auto model = load_test_model(options.model);
  auto executor = semi_pd::make_semi_pd_executor(
      *model, {.num_cores = 2,
               .partition = semi_pd::parse_partition(*options.partition, 2),
               .kv_tokens = options.kv_tokens,
               .chunk_tokens = options.executor.chunk_tokens,
               .max_stall_s = options.executor.max_stall_s,
               .max_running = options.executor.max_running,
               .max_queued = options.executor.max_queued,
               .order = options.executor.order});
  auto* const raw = executor.get();
  return {std::make_unique<ServedModel>("tiny", std::move(model), std::move(executor)), raw};
}

std::unique_ptr<ServedModel> serve_test_model(const TestModelOptions& options) {
  if (options.partition) return serve_partitioned_test_model(options).served;
  auto model = load_test_model(options.model);
  auto decoder = model->make_decoder(CoreSet(), {.capacity_tokens = options.kv_tokens});
  auto executor =
      make_unified_executor(std::move(decoder), model->tokenizer(), options.executor, CoreSet(),
                            std::make_shared<Turns>());
  return std::make_unique<ServedModel>("tiny", std::move(model), std::move(executor));
}

}  // namespace weft::serve
