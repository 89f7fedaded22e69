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

fs::path test_model_path() {
  static const ModelFile file;
  return file.path;
}

std::unique_ptr<text::TextModel> load_test_model(const text::TextModelOptions& options) {
  return std::make_unique<text::TextModel>(
      text::TextModel::load(test_model_path(), options, CoreSet()));
}

namespace {

struct Loaded {
  std::unique_ptr<text::TextModel> model;
  std::unique_ptr<isolate::Isolation> isolation;
};

Loaded load(const TestModelOptions& options) {
  if (!options.isolation) return {load_test_model(options.model), nullptr};
  auto weights = std::make_unique<isolate::SharedWeights>();
  text::TextModelOptions loading = options.model;
  loading.weights = &weights->arena;
  auto model = load_test_model(loading);
  isolate::IsolationOptions isolation = *options.isolation;
  isolation.model = test_model_path();
  isolation.kv_tokens = options.kv_tokens;
  isolation.num_cores = options.partition ? 2 : 1;
  isolation.two_phases = options.partition.has_value();
  isolation.max_running = options.executor.max_running;
  isolation.chunk_tokens = options.executor.chunk_tokens;
  auto isolated = std::make_unique<isolate::Isolation>(*model, std::move(weights), isolation);
  return {std::move(model), std::move(isolated)};
}

}  // namespace

PartitionedModel serve_partitioned_test_model(const TestModelOptions& options) {
  auto [model, isolation] = load(options);
  auto executor = semi_pd::make_semi_pd_executor(
      *model, {.num_cores = 2,
               .partition = semi_pd::parse_partition(*options.partition, 2),
               .kv_tokens = options.kv_tokens,
               .chunk_tokens = options.executor.chunk_tokens,
               .max_stall_s = options.executor.max_stall_s,
               .max_running = options.executor.max_running,
               .max_queued = options.executor.max_queued,
               .order = options.executor.order,
               .isolation = isolation.get()});
  auto* const raw = executor.get();
  return {std::make_unique<ServedModel>("tiny", std::move(model), std::move(executor),
                                        std::move(isolation)),
          raw};
}

std::unique_ptr<ServedModel> serve_test_model(const TestModelOptions& options) {
  if (options.partition) return serve_partitioned_test_model(options).served;
  auto [model, isolation] = load(options);
  text::TextModel::DecoderOptions decoder{.capacity_tokens = options.kv_tokens};
  if (isolation != nullptr) {
    decoder.pool = isolation->pool();
    decoder.model = isolation->model(Phase::kPrefill);
  }
  auto executor =
      make_unified_executor(model->make_decoder(CoreSet(), decoder), model->tokenizer(),
                            options.executor, CoreSet(), std::make_shared<Turns>());
  return std::make_unique<ServedModel>("tiny", std::move(model), std::move(executor),
                                       std::move(isolation));
}

}  // namespace weft::serve
