// A tiny random model with a vocabulary and a chat template, for the tests of this room. Written
// once for each test program.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "serve/semi_pd/executor.h"
#include "serve/served_model.h"
#include "serve/unified_executor.h"

namespace weft::serve {

std::unique_ptr<text::TextModel> load_test_model(
    const text::TextModelOptions& options = {.context = 256});

struct TestModelOptions {
  UnifiedOptions executor = {};
  size_t kv_tokens = 1024;
  text::TextModelOptions model = {.context = 256};
  // Instead, under this partition of two cores; chunks, queue and order as above.
  std::optional<std::string> partition = {};
};
// As above, under semi-PD.
struct PartitionedModel {
  std::unique_ptr<ServedModel> served;
  semi_pd::PartitionedExecutor* executor;
};
PartitionedModel serve_partitioned_test_model(const TestModelOptions& options);
std::unique_ptr<ServedModel> serve_test_model(const TestModelOptions& options = {});

}  // namespace weft::serve
