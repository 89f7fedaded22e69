#include "tests/process.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "base/error.h"

namespace weft::tests {
namespace {

// Unnamed files instead of pipes: nobody waits for anybody to read.
using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File temporary_file() {
  File file(std::tmpfile(), std::fclose);
  WEFT_ASSERT(file != nullptr);
  return file;
}

std::string contents(std::FILE* file) {
  std::rewind(file);
  std::string text;
  char chunk[4096];
  while (const size_t n = std::fread(chunk, 1, sizeof chunk, file)) text.append(chunk, n);
  return text;
}

[[noreturn]] void become(const std::string& program, const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment) {
  for (const std::string& line : environment) {
    const size_t equals = line.find('=');
    setenv(line.substr(0, equals).c_str(), line.substr(equals + 1).c_str(), 1);
  }
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(127);
}

}  // namespace

Finished run_weft(const std::vector<std::string>& arguments, std::string_view input,
                  const std::vector<std::string>& environment) {
  return run_program(WEFT_PROGRAM, arguments, input, environment);
}

Finished run_program(const std::string& program, const std::vector<std::string>& arguments,
                     std::string_view input, const std::vector<std::string>& environment) {
  const File in = temporary_file(), out = temporary_file(), err = temporary_file();
  std::fwrite(input.data(), 1, input.size(), in.get());
  std::rewind(in.get());
  std::fflush(nullptr);
  const pid_t pid = fork();
  WEFT_ASSERT(pid >= 0);
  if (pid == 0) {
    dup2(fileno(in.get()), STDIN_FILENO);
    dup2(fileno(out.get()), STDOUT_FILENO);
    dup2(fileno(err.get()), STDERR_FILENO);
    become(program, arguments, environment);
  }
  int status = 0;
  rusage usage{};
  WEFT_ASSERT(wait4(pid, &status, 0, &usage) == pid);
  return {.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
          .out = contents(out.get()),
          .err = contents(err.get()),
          .peak_memory_bytes = static_cast<size_t>(usage.ru_maxrss) << 10};
}

}  // namespace weft::tests
