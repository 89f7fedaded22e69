// Where the models are that need no path: the one that commands use when no --model names one, and
// those that come with weft (share/models).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace weft::cli {

// $WEFT_MODEL if set; else models/ of the source tree that this program was built in, where ./run
// puts the default model. The file may be missing: opening it says so.
std::filesystem::path default_model();

// NAME.gguf in share/models of the source tree that this program was built in, or in
// share/weft/models where it is installed.
std::optional<std::filesystem::path> own_model(const std::string& name);
std::vector<std::string> own_models();  // their names

}  // namespace weft::cli
