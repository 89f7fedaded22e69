// The flags that say how keys and values are kept: --kv and its kin.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "text/text_model.h"

namespace weft::cli {

struct KvOptions {
  std::string kind = "f16";
  std::optional<unsigned> k, v;  // bits
  std::optional<double> bits;    // of a value on average, by layer
  uint64_t budget_bytes = 0;
  size_t max_length = 0;
  std::string transform = "hadamard";
  std::filesystem::path calibration;

  // For the model in this file. kInvalidInput: flags that mean nothing together; as
  // load_kv_calibration.
  void apply(text::TextModelOptions& options, const std::filesystem::path& model) const;
};

// `options` must live until the command has run.
void add_kv_options(CLI::App& command, KvOptions& options);

}  // namespace weft::cli
