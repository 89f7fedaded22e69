// Where the model is that commands use when no --model names one.
#pragma once

#include <filesystem>

namespace weft::cli {

// $WEFT_MODEL if set; else models/ of the source tree that this program was built in, where ./run
// puts the default model. The file may be missing: opening it says so.
std::filesystem::path default_model();

}  // namespace weft::cli
