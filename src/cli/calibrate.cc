#include "cli/calibrate.h"

#include "cli/commands.h"

namespace weft::cli {

void add_calibrate(CLI::App& program, StopToken stop) {
  CLI::App* command =
      program.add_subcommand("calibrate", "Learn from data what a model needs for a task");
  command->footer("Example: weft calibrate kv book.txt --model model.gguf");
  command->require_subcommand(1);
  add_calibrate_kv(*command, stop);
  add_calibrate_vocab(*command, stop);
}

}  // namespace weft::cli
