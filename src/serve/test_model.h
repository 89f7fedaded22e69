// A tiny random model with a vocabulary and a chat template, for the tests of this room. Written
// once for each test program.
#pragma once

#include <memory>
#include <mutex>

#include "serve/served_model.h"
#include "serve/unified_executor.h"

namespace weft::serve {

// With the default context of 256 tokens.
std::unique_ptr<text::TextModel> load_test_model();

struct TestModelOptions {
  UnifiedOptions executor = {};
  size_t kv_tokens = 1024;
};
std::unique_ptr<ServedModel> serve_test_model(const TestModelOptions& options = {});

}  // namespace weft::serve
