// The program's manners: help, unknown words, exit codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "tests/process.h"

namespace weft::tests {
namespace {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;

AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return AssertionSuccess();
  return AssertionFailure() << "no '" << part << "' in:\n" << text;
}

// The words in the first column below "Subcommands:".
std::vector<std::string> listed_commands(const std::string& help) {
  std::vector<std::string> commands;
  std::istringstream lines(help);
  std::string line;
  while (std::getline(lines, line) && line != "Subcommands:") {
  }
  while (std::getline(lines, line) && line.starts_with("  ")) {
    if (line.starts_with("   ")) continue;  // a description's second line
    commands.push_back(line.substr(2, line.find(' ', 2) - 2));
  }
  return commands;
}

TEST(command_line, help_names_itself_and_an_example) {
  const Finished help = run_weft({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.err, "");
  EXPECT_TRUE(contains(help.out, "Usage: weft"));
  EXPECT_TRUE(contains(help.out, "Example: weft "));
  EXPECT_TRUE(contains(help.out, "doctor"));
}

TEST(command_line, every_command_shows_an_example) {
  const std::vector<std::string> commands = listed_commands(run_weft({"--help"}).out);
  ASSERT_FALSE(commands.empty());
  for (const std::string& command : commands) {
    const Finished help = run_weft({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_TRUE(contains(help.out, "Example: weft " + command) ||
                contains(help.out, "Examples:\n  weft " + command))
        << command;
  }
}

TEST(command_line, version) {
  const Finished version = run_weft({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_TRUE(contains(version.out, "weft 0."));
}

struct Mistake {
  std::vector<std::string> arguments;
  const char* complaint;
};

TEST(command_line, mistakes_are_named_and_end_with_2) {
  const Mistake mistakes[] = {
      {{}, "no command given. See 'weft --help'"},
      {{"frobnicate"}, "unknown command 'frobnicate'"},
      {{"--foo"}, "unknown option '--foo'"},
      {{"-q", "doctor"}, "unknown option '-q'"},
      {{"doctor", "--foo"}, "unknown option '--foo'. See 'weft doctor --help'"},
      {{"doctor", "twice"}, "unexpected argument 'twice'"},
  };
  for (const Mistake& mistake : mistakes) {
    const Finished finished = run_weft(mistake.arguments);
    EXPECT_EQ(finished.exit_code, 2) << mistake.complaint;
    EXPECT_EQ(finished.out, "") << mistake.complaint;
    EXPECT_TRUE(contains(finished.err, mistake.complaint));
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
}

TEST(command_line, serve_says_what_worker_processes_do_not_know) {
  const std::vector<std::string> serve = {"serve", "--isolate", "--port", "0", "--model",
                                          WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied"};
  const Mistake mistakes[] = {{{"--vocab-mode", "hybrid"}, "compute the whole vocabulary"},
                              {{"--kv", "8"}, "keys and values in 16 bit"}};
  for (const Mistake& mistake : mistakes) {
    std::vector<std::string> arguments = serve;
    arguments.insert(arguments.end(), mistake.arguments.begin(), mistake.arguments.end());
    const Finished finished = run_weft(arguments);
    EXPECT_EQ(finished.exit_code, 4) << finished.err;
    EXPECT_TRUE(contains(finished.err, mistake.complaint));
  }
}

}  // namespace
}  // namespace weft::tests
