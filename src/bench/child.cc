#include "bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/seconds.h"

extern char** environ;

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kPollMs = 100;               // between looks at the stop token
constexpr long kErrorTailBytes = 400;      // enough for a program's last words
constexpr std::chrono::seconds kToEnd{2};  // for a program that was asked to

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

std::string tail(std::FILE* file) {
  std::fseek(file, 0, SEEK_END);
  const long size = std::ftell(file);
  std::fseek(file, size > kErrorTailBytes ? size - kErrorTailBytes : 0, SEEK_SET);
  std::string text(kErrorTailBytes, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

std::vector<char*> argv_of(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  return argv;
}

pid_t start(const std::vector<std::string>& command, int out, int err) {
  std::vector<char*> argv = argv_of(command);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
  pid_t pid = 0;
  const int code = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (code != 0)
    fail(ErrorKind::kNotFound, "{}: cannot start: {}", command[0], std::strerror(code));
  return pid;
}

}  // namespace

ChildResult run_child(const std::vector<std::string>& command, StopToken stop) {
  int pipe_ends[2];
  const File err(std::tmpfile(), std::fclose);
  if (err == nullptr || pipe2(pipe_ends, O_CLOEXEC) != 0)
    fail(ErrorKind::kIo, "cannot set up pipes for {}: {}", command[0], std::strerror(errno));
  const File out(fdopen(pipe_ends[0], "r"), std::fclose);
  File child_end(fdopen(pipe_ends[1], "w"), std::fclose);

  ChildResult result;
  const auto begin = Clock::now();
  const auto elapsed = [begin] { return seconds_since(begin); };
  const pid_t pid = start(command, pipe_ends[1], fileno(err.get()));
  child_end.reset();
  char chunk[4096];
  while (true) {
    pollfd waiting{.fd = pipe_ends[0], .events = POLLIN, .revents = 0};
    if (stop.stop_requested()) kill(pid, SIGTERM);
    if (poll(&waiting, 1, kPollMs) <= 0) continue;
    const ssize_t n = ::read(pipe_ends[0], chunk, sizeof chunk);
    if (n == 0 || (n < 0 && errno != EINTR)) break;
    if (n > 0 && result.out.empty()) result.seconds_to_output = elapsed();
    if (n > 0) result.out.append(chunk, static_cast<size_t>(n));
  }
  int status = 0;
  rusage usage{};
  while (wait4(pid, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  stop.throw_if_stopped();
  result.seconds = elapsed();
  if (result.out.empty()) result.seconds_to_output = result.seconds;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  result.error_tail = tail(err.get());
  result.peak_memory_bytes = static_cast<size_t>(usage.ru_maxrss) << 10;  // ru_maxrss is in KiB
  return result;
}

RunningChild::RunningChild(const std::vector<std::string>& command)
    : printed_(std::tmpfile(), std::fclose) {
  if (access(command[0].c_str(), X_OK) != 0)
    fail(ErrorKind::kNotFound, "{}: no such program", command[0]);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (printed_ == nullptr || nothing < 0)
    fail(ErrorKind::kIo, "cannot set up files for {}: {}", command[0], std::strerror(errno));
  const std::vector<char*> argv = argv_of(command);
  const int out = fileno(printed_.get());
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {  // no more than what is safe beside the threads that are not here any more
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(nothing, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(nothing);
  if (pid_ < 0)
    fail(ErrorKind::kOutOfResources, "{}: cannot start: {}", command[0], std::strerror(errno));
  // It cannot have been replaced by another process of this number: nobody has waited for it yet.
  pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  WEFT_ASSERT(pid_fd_ >= 0);
}

RunningChild::~RunningChild() {
  kill(pid_, SIGTERM);
  if (!ends_within(kToEnd)) kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  close(pid_fd_);
}

bool RunningChild::ends_within(std::chrono::milliseconds patience) const {
  pollfd waiting{.fd = pid_fd_, .events = POLLIN, .revents = 0};
  return poll(&waiting, 1, static_cast<int>(patience.count())) > 0;
}

std::string RunningChild::last_words() const { return tail(printed_.get()); }

}  // namespace weft::bench
