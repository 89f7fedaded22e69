#include "cli/default_model.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

// `wanted` in a folder above the program: build/release/weft has its source tree two folders up, an
// installed bin/weft its prefix one folder up. Empty: nowhere.
fs::path above_program(const fs::path& wanted) {
  std::error_code none;  // unreadable folders on the way up hold nothing of ours
  const fs::path program = fs::read_symlink("/proc/self/exe", none);
  for (auto folder = program.parent_path(); folder.has_relative_path();
       folder = folder.parent_path())
    if (fs::exists(folder / wanted, none)) return folder / wanted;
  return {};
}

fs::path own_folder() {
  const fs::path built = above_program("share/models");
  return built.empty() ? above_program("share/weft/models") : built;
}

}  // namespace

fs::path default_model() {
  if (const char* chosen = std::getenv("WEFT_MODEL"); chosen != nullptr && *chosen != '\0')
    return chosen;
  constexpr const char* kModel = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  const fs::path found = above_program(kModel);
  return found.empty() ? fs::path(kModel) : found;
}

std::optional<fs::path> own_model(const std::string& name) {
  const std::vector<std::string> names = own_models();
  if (std::find(names.begin(), names.end(), name) == names.end()) return std::nullopt;
  return own_folder() / (name + ".gguf");
}

std::vector<std::string> own_models() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(own_folder(), none))
    if (entry.path().extension() == ".gguf") names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace weft::cli
