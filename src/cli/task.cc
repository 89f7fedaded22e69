#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "tasks/reason.h"

namespace weft::cli {
namespace {

struct Options {
  std::string level = "medium", split = "train";
  size_t count = 10;
  uint64_t seed = 1, first = 0;
};

void print_reason(const Options& options, StopToken stop) {
  const tasks::ReasonOptions level = tasks::reason_options(options.level);
  const tasks::ReasonSplit split = tasks::reason_split(options.split);
  for (uint64_t index = options.first; index < options.first + options.count; ++index) {
    stop.throw_if_stopped();
    const tasks::ReasonProblem problem = tasks::make_reason(level, split, options.seed, index);
    const tasks::ReasonPieces pieces = tasks::write_reason(problem, options.seed, index);
    const nlohmann::ordered_json line = {{"prompt", tasks::join_pieces(pieces.prompt)},
                                         {"completion", tasks::join_pieces(pieces.completion)},
                                         {"answer", problem.answer()},
                                         {"level", options.level},
                                         {"steps", problem.steps.size()},
                                         {"split", options.split},
                                         {"index", index}};
    fmt::print("{}\n", line.dump());
  }
}

}  // namespace

void add_task(CLI::App& program, StopToken stop) {
  CLI::App* task =
      program.add_subcommand("task", "Print problems of a generated task, with answers");
  task->footer("Example: weft task reason --level easy --count 3");
  task->require_subcommand(1);
  const auto options = std::make_shared<Options>();
  CLI::App* command = task->add_subcommand(
      "reason", "Chains of arithmetic with their working, one JSON object a line");
  command
      ->add_option("--level", options->level,
                   "easy, medium, hard, extreme, linked or mixed; settings may "
                   "follow: medium:steps=5-20:operators=+-:modulus=1000:links=0.25:factor=9")
      ->capture_default_str();
  command->add_option("--count", options->count, "Problems")->capture_default_str();
  command->add_option("--first", options->first, "Index of the first")->capture_default_str();
  command->add_option("--seed", options->seed, "Other problems")->capture_default_str();
  command->add_option("--split", options->split, "train or test; no problem is in both")
      ->capture_default_str();
  command->footer(
      "Example: weft task reason --level medium --count 1000 --split test > test.jsonl");
  command->callback([options, stop] { print_reason(*options, stop); });
}

}  // namespace weft::cli
