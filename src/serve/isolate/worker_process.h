// One worker process, as the front sees it: started, watched, killed when it hangs, and started
// again when it has died. A thread of its own does all that; the executor's thread calls.
//
// A worker keeps nothing that the front needs, so starting it again is all there is to recover: it
// maps weights and cache as they are, and computes the step that was lost once more.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "serve/isolate/channel.h"

namespace weft::serve::isolate {

struct WorkerOptions {
  std::string role;                  // "prefill", "decode" or "compute"
  std::vector<std::string> command;  // the program, its name and first arguments
  // A worker that computes and gives no sign of life for so long, or 20 times what the step should
  // take if that is more, hangs.
  std::chrono::nanoseconds silence = std::chrono::seconds(5);
  double s_per_token = 0;                            // expected, until some have been measured
  std::function<void()> after_death = {};            // it is gone, and there is no other one yet
  std::function<bool()> may_start_again = {};        // asked once for each death
  std::function<void(const Error&)> gave_up = {};    // it will not be started again
  std::function<void(const std::string&)> log = {};  // each death, in words, once it is mended
};

struct WorkerState {
  std::string role;
  pid_t pid = 0;  // 0: there is none
  uint64_t restarts = 0;
};

class WorkerProcess {
 public:
  // Ready to compute when it returns; throws what kept the worker from it. `fds` are those of
  // WorkerFd from kChannelFd to kSharesFd (-1: none).
  WorkerProcess(Channel& channel, std::span<const int> fds, WorkerOptions options);
  ~WorkerProcess();  // no call is under way
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  enum class Outcome : uint8_t { kDone, kLost, kGivenUp };
  // Lets the worker compute what `write` puts into the channel, `tokens` of them. kLost: it died,
  // and no trace of it is left but in the channel and in cache that had been reserved.
  Outcome call(const std::function<void()>& write, size_t tokens);

  WorkerState state() const;
  Error why_given_up() const;

 private:
  enum class State : uint8_t { kStarting, kReady, kDead, kGivenUp };
  void watch();
  std::optional<Error> start();
  void spawn();
  std::string bury();
  void give_up(const Error& error);
  Outcome await_response(uint32_t number, size_t tokens);
  void kill() const;
  void set_state(State state);

  Channel& channel_;
  const WorkerOptions options_;
  std::vector<int> fds_;  // as the worker gets them, above its own numbers
  int ready_fd_ = -1, stop_fd_ = -1;

  mutable std::mutex mutex_;  // guards the rest but the thread
  std::condition_variable changed_;
  State state_ = State::kStarting;
  bool calling_ = false, stopping_ = false;
  std::optional<Error> error_;  // why it gave up
  pid_t pid_ = 0;
  int pid_fd_ = -1;
  uint64_t restarts_ = 0;

  // Of the calling thread.
  uint32_t number_ = 0;
  double s_per_token_;

  std::thread thread_;
};

}  // namespace weft::serve::isolate
