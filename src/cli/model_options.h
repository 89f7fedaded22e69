// The flags of commands that load a language model, and the loading: progress bar, check of memory,
// the plan under --verbose.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <filesystem>
#include <memory>

#include "base/interrupt.h"
#include "base/thread_pool.h"
#include "cli/expert_options.h"
#include "cli/kv_options.h"
#include "cli/rank_options.h"
#include "cli/vocab_options.h"
#include "text/text_model.h"

namespace weft::cli {

struct ModelOptions {
  std::filesystem::path model;  // empty: default_model()
  size_t threads = available_cores();
  size_t context = 0;
  KvOptions kv;
  ExpertOptions experts;
  RankOptions ranks;
  bool verbose = false;
  StopToken stop;  // ends the loading too
};

// `options` must live until the command has run. add_engine_options: all but --model.
void add_model_options(CLI::App& command, ModelOptions& options, StopToken stop);
void add_engine_options(CLI::App& command, ModelOptions& options, StopToken stop);

struct LoadedModel {
  std::unique_ptr<ThreadPool> pool;
  text::TextModel model;
  size_t chunk_tokens = 512;  // of a prompt in one pass; more where ranks share them
};
LoadedModel load_model(const ModelOptions& options, const VocabOptions& vocab = {});
void print_plan(const text::TextMemoryPlan& plan);  // one line of memory to come

// The --model flag alone, for commands that need no more of the model than its file.
void add_model_flag(CLI::App& command, std::filesystem::path& model);
std::filesystem::path model_path(const std::filesystem::path& asked);

}  // namespace weft::cli
