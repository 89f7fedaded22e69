#include "cli/eval.h"

#include "cli/commands.h"

namespace weft::cli {

void add_eval(CLI::App& program, StopToken stop) {
  CLI::App* command = program.add_subcommand("eval", "Measure how good answers are, and what a technique costs in quality");
  command->footer("Example: weft eval kv book.txt");
  command->require_subcommand(1);
  add_eval_experts(*command, stop);
  add_eval_kv(*command, stop);
  add_eval_kv_tasks(*command, stop);
  add_eval_reason(*command, stop);
}

}  // namespace weft::cli
