#include <fmt/format.h>

#include "base/thread_pool.h"
#include "cli/commands.h"

namespace weft::cli {

void add_doctor(CLI::App& program, StopToken) {
  CLI::App* command = program.add_subcommand("doctor", "Show what this machine can do");
  command->footer("Example: weft doctor");
  command->callback([] { fmt::print("cores: {}\n", available_cores()); });
}

}  // namespace weft::cli
