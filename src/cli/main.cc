#include <cstdio>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/rank_options.h"
#include "serve/isolate/worker_main.h"

namespace {

using namespace weft;

constexpr cli::AddCommand kCommands[] = {
    cli::add_chat,  cli::add_generate,  cli::add_serve,   cli::add_perplexity, cli::add_eval,
    cli::add_task,  cli::add_calibrate, cli::add_inspect, cli::add_tokenize,   cli::add_quantize,
    cli::add_train, cli::add_topo,      cli::add_bench,   cli::add_doctor,
};

// What CLI11 could not place: a misspelt command or flag. Its own message ("The following argument
// was not expected") names neither kind.
std::string unexpected(const CLI::App& program) {
  const std::vector<std::string> rest = program.remaining(true);
  const std::string first = rest.empty() ? "" : rest.front();
  if (first.starts_with('-')) return "unknown option '" + first + "'";
  return (program.get_subcommands().empty() ? "unknown command '" : "unexpected argument '") +
         first + "'";
}

int complain(const std::string& what, const CLI::App& program) {
  std::string command;
  for (auto chosen = program.get_subcommands(); !chosen.empty();
       chosen = chosen.front()->get_subcommands())
    command += " " + chosen.front()->get_name();
  std::fprintf(stderr, "weft: %s. See 'weft%s --help'.\n", what.c_str(), command.c_str());
  return exit_code(ErrorKind::kInvalidInput);
}

int run(int argc, char** argv) {
  CLI::App program{
      "Weft runs, serves and post-trains generative models on the machines people have."};
  program.name("weft");
  program.set_version_flag("--version", "weft " WEFT_VERSION);
  program.require_subcommand(0,
                             1);  // none is our own complaint below: CLI11's would hide a bad flag
  program.footer(
      "Example: weft generate \"Why is the sky blue?\"\nHelp on a command: weft COMMAND --help");
  const StopToken stop = install_interrupt_handlers();
  for (const cli::AddCommand add : kCommands) add(program, stop);
  try {
    program.parse(argc, argv);
    return program.get_subcommands().empty() ? complain("no command given", program) : 0;
  } catch (const CLI::Success& asked_for_help) {
    return program.exit(asked_for_help);
  } catch (const CLI::ExtrasError&) {
    return complain(unexpected(program), program);
  } catch (const CLI::ParseError& error) {
    return complain(error.what(), program);
  }
}

// One line, and the end of all ranks where there are several.
int end_with(const char* words, int code) {
  std::fprintf(stderr, "weft: %s%s\n", cli::rank_prefix().c_str(), words);
  cli::end_job_after_error(code);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (serve::isolate::is_worker(argc, argv)) return serve::isolate::run_worker(argc, argv);
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    return end_with(error.what(), exit_code(error.kind()));
  } catch (const std::bad_alloc&) {
    return end_with("out of memory. Use a smaller --context or a smaller model.",
                    exit_code(ErrorKind::kOutOfResources));
  } catch (const std::exception& error) {
    return end_with(error.what(), 1);
  }
}
