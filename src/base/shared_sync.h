// Waiting and locking between threads of several processes, in memory that they share.
// (std::atomic's wait and std::mutex are for the threads of one.)
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace weft {

// A word to wait on. Lives in shared memory; all zeros is a good one.
struct SharedSignal {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};  // too many after one has died: costs a system call per wake

  uint32_t load() const { return value.load(); }
  void raise() {
    value.fetch_add(1);
    wake();
  }
  void store(uint32_t v) {
    value.store(v);
    wake();
  }
  // Returns once the word may differ from `seen`, or after `patience`; sometimes for no reason.
  // No wake-up is lost: the waker changes the word and then looks for sleepers, the sleeper says so
  // and then (in the kernel) looks at the word.
  void wait(uint32_t seen, std::chrono::nanoseconds patience = std::chrono::nanoseconds::max());

 private:
  void wake() {
    if (sleepers.load() != 0) wake_all();
  }
  void wake_all();
};

// A mutex that a dead owner does not keep: the next one gets it, and must expect what it guards to
// be half changed. Constructed once, in place, by the process that owns the memory.
class SharedMutex {
 public:
  SharedMutex();
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;
  void lock();
  void unlock();

 private:
  pthread_mutex_t mutex_;
};

}  // namespace weft
