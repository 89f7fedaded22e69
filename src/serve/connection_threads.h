// The threads that connections run on: one each, made as they are needed and let go when idle, up to
// a limit. More connections than that wait for one to end. (The library's own pool has a fixed few
// threads, which as many idle keep-alive connections would hold up.)
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace weft::serve {

class ConnectionThreads final : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(size_t most) : most_(most) {}

  void enqueue(std::function<void()> connection) override;
  void shutdown() override;  // waits for all connections to end

 private:
  void work();

  const size_t most_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  size_t threads_ = 0, idle_ = 0;
  bool stopping_ = false;
};

}  // namespace weft::serve
