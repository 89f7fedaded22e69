#include "serve/connection_threads.h"

#include <sys/prctl.h>

#include <chrono>
#include <thread>
#include <utility>

namespace weft::serve {

void ConnectionThreads::enqueue(std::function<void()> connection) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(connection));
  if (idle_ < waiting_.size() && threads_ < most_) {
    ++threads_;
    std::thread([this] { work(); }).detach();  // shutdown() waits for it by count
  }
  changed_.notify_one();
}

void ConnectionThreads::shutdown() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return threads_ == 0; });
}

void ConnectionThreads::work() {
  prctl(PR_SET_NAME, "weft-http");  // in top -H; `bench http` counts by it
  constexpr auto kIdle = std::chrono::seconds(10);
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    changed_.wait_for(lock, kIdle, [this] { return stopping_ || !waiting_.empty(); });
    --idle_;
    if (waiting_.empty()) break;  // idle for long, or the end
    const std::function<void()> connection = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    connection();
    lock.lock();
  }
  --threads_;
  changed_.notify_all();
}

}  // namespace weft::serve
