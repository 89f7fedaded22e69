// A tiny random model with a vocabulary and a chat template, for the tests of this room. Written
// once for each test program.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "serve/semi_pd/executor.h"
#include "serve/served_model.h"
#include "serve/unified_executor.h"

namespace weft::serve {

std::unique_ptr<text::TextModel> load_test_model(
    const text::TextModelOptions& options = {.context = 256});
std::filesystem::path test_model_path();  // of its file

struct TestModelOptions {
  UnifiedOptions executor = {};
  size_t kv_tokens = 1024;
  text::TextModelOptions model = {.context = 256};
  // Instead, under this partition of two cores; chunks, queue and order as above.
  std::optional<std::string> partition = {};
  // In worker processes; model, pool, cores and executor as above.
  std::optional<isolate::IsolationOptions> isolation = {};
};
// As above, under semi-PD.
struct PartitionedModel {
  std::unique_ptr<ServedModel> served;
  semi_pd::PartitionedExecutor* executor;
};
PartitionedModel serve_partitioned_test_model(const TestModelOptions& options);
std::unique_ptr<ServedModel> serve_test_model(const TestModelOptions& options = {});

}  // namespace weft::serve
