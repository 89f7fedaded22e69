// `weft train`: runs the trainer that lies beside this program.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"

namespace weft::cli {
namespace {

void run(const std::vector<std::string>& arguments) {
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "weft-train";
  const bool exists = std::filesystem::exists(program);
  if (!exists && std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
    fmt::print("Train language models. This build has no trainer, for which it needs libtorch.\n\n"
               "Example: weft train lm examples/train/tiny.json\n");
    return;
  }
  if (!exists)
    fail(ErrorKind::kUnsupported,
         "this build has no trainer ({} is missing), because libtorch was not found. Install "
         "Debian's "
         "libtorch-dev, or name an unpacked libtorch in CMAKE_PREFIX_PATH, and build again.",
         program.string());
  std::string path = program;
  std::vector<std::string> words = arguments;
  std::vector<char*> argv = {path.data()};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(path.c_str(), argv.data());
  fail(ErrorKind::kIo, "{}: cannot be started: {}", path, std::strerror(errno));
}

}  // namespace

void add_train(CLI::App& program, StopToken) {
  CLI::App* command =
      program.add_subcommand("train", "Train a model: weft train lm CONFIG.json (needs libtorch)");
  command->prefix_command();  // everything behind it, --help too, is the trainer's
  command->set_help_flag();
  command->callback([command] { run(command->remaining()); });
}

}  // namespace weft::cli
