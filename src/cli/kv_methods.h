// The ways of keeping keys and values that `weft eval kv` and `weft eval kv-tasks` compare.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/model_options.h"
#include "text/kv_replay.h"

namespace weft::cli {

struct KvMethodOptions {
  size_t bits = 4;
  std::filesystem::path sidecar;
  std::vector<std::string> only;
};

void add_kv_method_options(CLI::App& command, KvMethodOptions& options);
// kInvalidInput: a name in `only` that is none (lists them). As load_kv_calibration().
std::vector<text::ReplayMethod> kv_methods(const KvMethodOptions& options,
                                           const ModelOptions& model_options,
                                           const models::LanguageModel& model);

}  // namespace weft::cli
