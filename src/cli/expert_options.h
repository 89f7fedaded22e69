// The flags that keep a part of a mixture's experts in memory: --expert-memory and its kin.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "text/text_model.h"

namespace weft::cli {

// One of the models that a command loads.
struct ExpertShare {
  std::string name;
  size_t expert_bytes = 0;  // of all its routed experts; 0: it is no mixture
};

// --expert-memory's values for the models of one command, by model; nothing: all in memory.
// NAME=SIZE is that model's own. SIZE is for all other mixtures together: bytes are divided so that
// each keeps the same part of its experts, a percentage is that part. kInvalidInput: no such model
// or mixture, or one named twice.
std::vector<std::optional<text::ExpertBudget>> divide_expert_memory(
    std::span<const std::string> sizes, std::span<const ExpertShare> models);

struct ExpertOptions {
  std::vector<std::string> memory;  // empty: all experts in memory
  std::string io = "auto", policy = "expected";
  std::filesystem::path pack;
  bool on_demand = false;

  // Of a command's only model, and of one that has its budget from divide_expert_memory.
  // kInvalidInput: what cannot be read, or flags that mean nothing without --expert-memory.
  void apply(text::TextModelOptions& options) const;
  void apply(text::TextModelOptions& options, std::optional<text::ExpertBudget> budget) const;
};

// `options` must live until the command has run.
void add_expert_options(CLI::App& command, ExpertOptions& options);

// One line of what streaming has done so far; nothing where all experts are in memory.
void print_expert_counters(const text::TextModel& model);

}  // namespace weft::cli
