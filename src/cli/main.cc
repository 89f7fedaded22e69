#include <cstdio>

#include "base/error.h"
#include "cli/commands.h"

namespace {

using namespace weft;

constexpr cli::AddCommand kCommands[] = {
    cli::add_doctor,
};

int run(int argc, char** argv) {
  CLI::App program{"Weft runs, serves and post-trains generative models on the machines people have."};
  program.name("weft");
  program.set_version_flag("--version", "weft " WEFT_VERSION);
  program.require_subcommand(1);
  program.footer("Example: weft generate \"Why is the sky blue?\"\nHelp on a command: weft COMMAND --help");
  const StopToken stop = install_interrupt_handlers();
  for (const cli::AddCommand add : kCommands) add(program, stop);
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& asked_for_help) {
    return program.exit(asked_for_help);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "weft: %s\nSee 'weft --help'.\n", error.what());
    return exit_code(ErrorKind::kInvalidInput);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "weft: %s\n", error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "weft: out of memory. Use a smaller --context or a smaller model.\n");
    return exit_code(ErrorKind::kOutOfResources);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "weft: %s\n", error.what());
    return 1;
  }
}
