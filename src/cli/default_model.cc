#include "cli/default_model.h"

#include <cstdlib>
#include <system_error>

namespace weft::cli {

std::filesystem::path default_model() {
  if (const char* chosen = std::getenv("WEFT_MODEL"); chosen != nullptr && *chosen != '\0')
    return chosen;
  constexpr const char* kModel = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::error_code none;  // unreadable folders on the way up hold no model of ours
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", none);
  // build/release/weft: two folders up; an installed program finds none on its way to the root.
  for (auto folder = program.parent_path(); folder.has_relative_path();
       folder = folder.parent_path())
    if (std::filesystem::exists(folder / kModel, none)) return folder / kModel;
  return kModel;
}

}  // namespace weft::cli
