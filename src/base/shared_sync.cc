#include "base/shared_sync.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "base/error.h"

namespace weft {

void SharedSignal::wait(uint32_t seen, std::chrono::nanoseconds patience) {
  timespec time{};
  const bool forever = patience == std::chrono::nanoseconds::max();
  time.tv_sec = patience.count() / 1'000'000'000;
  time.tv_nsec = patience.count() % 1'000'000'000;
  sleepers.fetch_add(1);
  // What can go wrong (a changed word, a signal, the time) is what the caller looks for anyway.
  syscall(SYS_futex, &value, FUTEX_WAIT, seen, forever ? nullptr : &time, nullptr, 0);
  sleepers.fetch_sub(1);
}

void SharedSignal::wake_all() {
  syscall(SYS_futex, &value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

SharedMutex::SharedMutex() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  const int error = pthread_mutex_init(&mutex_, &attributes);
  pthread_mutexattr_destroy(&attributes);
  WEFT_ASSERT(error == 0);
}

void SharedMutex::lock() {
  const int error = pthread_mutex_lock(&mutex_);
  if (error == EOWNERDEAD) pthread_mutex_consistent(&mutex_);
  WEFT_ASSERT(error == 0 || error == EOWNERDEAD);
}

void SharedMutex::unlock() { pthread_mutex_unlock(&mutex_); }

}  // namespace weft
