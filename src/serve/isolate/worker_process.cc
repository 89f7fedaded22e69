#include "serve/isolate/worker_process.h"
#include "base/seconds.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

extern char** environ;

namespace weft::serve::isolate {
namespace {

using Clock = std::chrono::steady_clock;

// A worker maps what is there: it needs tens of milliseconds. This only turns a hang into an error.
constexpr auto kLongestStart = std::chrono::seconds(60);
// How often a worker that computes is looked at. Its death is noticed at once all the same.
constexpr auto kLook = std::chrono::milliseconds(100);

int event_fd() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0)
    fail(ErrorKind::kOutOfResources, "cannot create an eventfd: {}", std::strerror(errno));
  return fd;
}

}  // namespace

WorkerProcess::WorkerProcess(Channel& channel, std::span<const int> fds, WorkerOptions options)
    : channel_(channel),
      options_(std::move(options)),
      ready_fd_(event_fd()),
      stop_fd_(event_fd()),
      s_per_token_(options_.s_per_token) {
  // Above the numbers that they get in the worker, so that none is overwritten on the way.
  for (const int fd : fds)
    fds_.push_back(fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, static_cast<int>(kEndFd)));
  fds_.push_back(fcntl(ready_fd_, F_DUPFD_CLOEXEC, static_cast<int>(kEndFd)));
  WEFT_ASSERT(fds_.size() == kEndFd - kChannelFd);
  thread_ = std::thread([this] { watch(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return state_ == State::kReady || state_ == State::kGivenUp; });
  if (state_ == State::kReady) return;
  const Error error = *error_;
  lock.unlock();
  thread_.join();
  throw error;
}

WorkerProcess::~WorkerProcess() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  const uint64_t one = 1;
  WEFT_ASSERT(write(stop_fd_, &one, sizeof one) == sizeof one);
  thread_.join();
  for (const int fd : fds_)
    if (fd >= 0) close(fd);
  close(ready_fd_);
  close(stop_fd_);
}

WorkerState WorkerProcess::state() const {
  const std::lock_guard lock(mutex_);
  return {.role = options_.role, .pid = state_ == State::kReady ? pid_ : 0, .restarts = restarts_};
}

Error WorkerProcess::why_given_up() const {
  const std::lock_guard lock(mutex_);
  return *error_;
}

void WorkerProcess::set_state(State state) {
  {
    const std::lock_guard lock(mutex_);
    state_ = state;
  }
  changed_.notify_all();
}

// ---- the thread that starts and watches. The system kills the worker when this thread ends.

void WorkerProcess::watch() {
  std::string how;  // the last one died
  Clock::time_point died;
  for (bool first = true;; first = false) {
    if (const auto error = start()) {
      // What a first start reports is the user's to mend, and no second one would do better.
      if (first || !options_.may_start_again()) return give_up(*error);
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      state_ = State::kReady;
      if (!first) ++restarts_;
    }
    changed_.notify_all();
    if (!first && options_.log)
      options_.log(fmt::format("the {} process {}; another one computes, {:.0f} ms later",
                               options_.role, how, seconds_since(died) * 1e3));

    pollfd waits[] = {{pid_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
    while (poll(waits, 2, -1) < 0 && errno == EINTR) {
    }
    if (waits[1].revents != 0) {
      kill();
      bury();
      return;
    }
    how = bury();
    died = Clock::now();
    {
      // Under the mutex: a call either began before, and is told by the response, or sees the
      // state.
      const std::lock_guard lock(mutex_);
      state_ = State::kDead;
      channel_.header().response.store(Channel::kLost);
    }
    if (options_.after_death) options_.after_death();
    if (!options_.may_start_again())
      return give_up(Error(ErrorKind::kPeerLost,
                           fmt::format("the {} process {}, and too often in the last minute to be "
                                       "started again. Please report this.",
                                       options_.role, how)));
    // The call that was under way must have seen it, or it would meet the next worker.
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !calling_ || stopping_; });
    if (stopping_) return;
  }
}

void WorkerProcess::give_up(const Error& error) {
  if (options_.gave_up) options_.gave_up(error);  // before any request fails for it
  {
    const std::lock_guard lock(mutex_);
    error_ = error;
    state_ = State::kGivenUp;
    channel_.header().response.store(Channel::kLost);
  }
  changed_.notify_all();
}

// Nothing, or what was wrong; then it is gone again.
std::optional<Error> WorkerProcess::start() {
  channel_.header().error.kind = -1;
  uint64_t drained = 0;
  while (read(ready_fd_, &drained, sizeof drained) > 0) {
  }
  try {
    spawn();
  } catch (const Error& error) {
    return error;
  }
  pollfd waits[] = {{ready_fd_, POLLIN, 0}, {pid_fd_, POLLIN, 0}};
  int ready = 0;
  const Clock::time_point deadline = Clock::now() + kLongestStart;
  do {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    ready = poll(waits, 2, static_cast<int>(std::max<int64_t>(0, left.count())));
  } while (ready < 0 && errno == EINTR);
  if (ready > 0 && waits[0].revents != 0) return std::nullopt;
  kill();
  const std::string how = bury();
  if (ready == 0)
    return Error(ErrorKind::kTimeout, fmt::format("the {} process was not ready after {} s",
                                                  options_.role, kLongestStart.count()));
  if (auto error = channel_.header().error.get())
    return error->in(fmt::format("the {} process", options_.role));
  return Error(ErrorKind::kPeerLost,
               fmt::format("the {} process {} before it was ready", options_.role, how));
}

void WorkerProcess::spawn() {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (size_t i = 0; i < fds_.size(); ++i)
    if (fds_[i] >= 0)
      posix_spawn_file_actions_adddup2(&actions, fds_[i], kChannelFd + static_cast<int>(i));
  std::vector<std::string> arguments(options_.command.begin() + 1, options_.command.end());
  arguments.push_back(options_.role);
  arguments.push_back(std::to_string(getpid()));
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, options_.command.front().c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    fail(ErrorKind::kOutOfResources, "cannot start the {} process ({}): {}", options_.role,
         options_.command.front(), std::strerror(error));
  // It cannot have been replaced by another process of this number: nobody has waited for it yet.
  const int pid_fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  WEFT_ASSERT(pid_fd >= 0);
  const std::lock_guard lock(mutex_);
  pid_ = pid;
  pid_fd_ = pid_fd;
}

// Waits for its end, and says how it came.
std::string WorkerProcess::bury() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  const std::lock_guard lock(mutex_);
  close(pid_fd_);
  pid_fd_ = -1;
  pid_ = 0;
  return WIFSIGNALED(status) ? fmt::format("ended with signal {} ({})", WTERMSIG(status),
                                           strsignal(WTERMSIG(status)))
                             : fmt::format("ended with exit code {}", WEXITSTATUS(status));
}

void WorkerProcess::kill() const {
  const std::lock_guard lock(mutex_);
  if (pid_fd_ >= 0) syscall(SYS_pidfd_send_signal, pid_fd_, SIGKILL, nullptr, 0);
}

// ---- the caller's side

WorkerProcess::Outcome WorkerProcess::call(const std::function<void()>& write, size_t tokens) {
  {
    std::unique_lock lock(mutex_);
    WEFT_ASSERT(!calling_);
    changed_.wait(lock, [this] { return state_ == State::kReady || state_ == State::kGivenUp; });
    if (state_ == State::kGivenUp) return Outcome::kGivenUp;
    calling_ = true;
    channel_.header().response.value.store(0);  // no longer kLost: that was the one before
  }
  number_ = (number_ + 1) % Channel::kLost;
  if (number_ == 0) number_ = 1;
  write();
  channel_.header().request.store(number_);
  const Outcome outcome = await_response(number_, tokens);
  {
    const std::lock_guard lock(mutex_);
    calling_ = false;
  }
  if (outcome == Outcome::kLost) changed_.notify_all();
  return outcome;
}

// Sleeps at once: the worker's driver wants this very core.
WorkerProcess::Outcome WorkerProcess::await_response(uint32_t number, size_t tokens) {
  SharedSignal& response = channel_.header().response;
  const Clock::time_point start = Clock::now();
  const std::chrono::duration<double> predicted(s_per_token_ * static_cast<double>(tokens));
  const std::chrono::duration<double> silence =
      std::max<std::chrono::duration<double>>(options_.silence, 20 * predicted);
  uint32_t beat = channel_.header().beat.load(std::memory_order_relaxed);
  Clock::time_point heard = start;
  while (true) {
    const uint32_t seen = response.load();
    if (seen == number) break;
    if (seen == Channel::kLost) return Outcome::kLost;
    response.wait(seen, std::min<std::chrono::nanoseconds>(kLook, options_.silence));
    const uint32_t now = channel_.header().beat.load(std::memory_order_relaxed);
    if (now != beat) {
      beat = now;
      heard = Clock::now();
    } else if (Clock::now() - heard > silence) {
      kill();  // the other thread sees it die
    }
  }
  // Follows slower steps at once and faster ones gradually.
  const double s = seconds_since(start) / static_cast<double>(std::max<size_t>(1, tokens));
  s_per_token_ = std::max(s, 0.9 * s_per_token_ + 0.1 * s);
  return Outcome::kDone;
}

}  // namespace weft::serve::isolate
