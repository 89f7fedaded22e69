// A mutex that is handed over in the order in which it was asked for. Executors hold the machine's
// cores for a step at a time; with std::mutex, a loop that asks again at once would never let
// another one in.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace weft::serve {

class Turns {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    const uint64_t mine = next_++;
    changed_.wait(lock, [&] { return now_ == mine; });
  }
  void unlock() {
    {
      const std::lock_guard lock(mutex_);
      ++now_;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  uint64_t next_ = 0, now_ = 0;
};

}  // namespace weft::serve
