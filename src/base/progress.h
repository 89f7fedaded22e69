// A progress bar on stderr with rate and time left. It appears once the work has taken two seconds,
// and never when stderr is not a terminal.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>

namespace weft {

// What long work reports to: (done, total). Called from any thread; may be empty.
using ProgressFn = std::function<void(size_t done, size_t total)>;

class Progress {
 public:
  // `unit` is counted ("tokens", "tensors", "MiB").
  Progress(std::string label, size_t total, std::string unit);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void set(size_t done);  // thread-safe
  void advance(size_t n) { set(done_.load() + n); }
  ProgressFn callback() {
    return [this](size_t done, size_t total) {
      total_.store(total);
      set(done);
    };
  }

 private:
  void draw(size_t done, double seconds);
  std::string label_, unit_;
  std::atomic<size_t> total_, done_{0};
  const bool terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::mutex mutex_;  // guards the two below and the line on the terminal
  std::chrono::steady_clock::time_point last_draw_;
  bool drawn_ = false;
};

}  // namespace weft
