// The flags that keep a part of a mixture's experts in memory: --expert-memory and its kin.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "text/text_model.h"

namespace weft::cli {

struct ExpertOptions {
  std::string memory;  // empty: all experts in memory
  std::string io = "auto", policy = "expected";
  std::filesystem::path pack;
  bool on_demand = false;

  // kInvalidInput: what cannot be read, or flags that mean nothing without --expert-memory.
  void apply(text::TextModelOptions& options) const;
};

// `options` must live until the command has run.
void add_expert_options(CLI::App& command, ExpertOptions& options);

// One line of what streaming has done so far; nothing where all experts are in memory.
void print_expert_counters(const text::TextModel& model);

}  // namespace weft::cli
