#include "base/thread_pool.h"

#include <sched.h>

#include <thread>

#include "base/core_share.h"
#include "base/error.h"
#include "base/spin.h"

namespace weft {
namespace {

// Before the waiting caller gives its time slice away (more threads than cores).
constexpr int kSpinsBeforeYield = 20000;

}  // namespace

// Lives on the caller's stack; `unfinished` counts workers that may still touch it.
struct ThreadPool::Job {
  CoreSet::Call call;
  void* context;
  size_t n, grain;
  alignas(64) std::atomic<size_t> next{0};
  alignas(64) std::atomic<size_t> unfinished{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error = nullptr;  // written by whoever turned `failed`, read after `unfinished` is 0

  void take_pieces(size_t core) noexcept {
    while (true) {
      const size_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      try {
        call(context, begin, begin + grain < n ? begin + grain : n, core);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
        next.store(n, std::memory_order_relaxed);  // nobody need start another piece
        return;
      }
    }
  }
};

ThreadPool::Job ThreadPool::kTaken{};

struct alignas(64) ThreadPool::Worker {
  // The job it shall help with, kTaken once it does. Until then the caller may take the job back: on
  // a busy machine a worker may wake long after the caller has done everything itself.
  std::atomic<Job*> job{nullptr};
  std::atomic<size_t> core{0};
  std::atomic<bool> stop{false};
  std::thread thread;
};

ThreadPool::ThreadPool(size_t num_threads) {
  if (num_threads == 0) fail(ErrorKind::kInvalidInput, "a thread pool needs at least 1 thread");
  for (size_t i = 1; i < num_threads; ++i) workers_.push_back(std::make_unique<Worker>());
  for (auto& worker : workers_) worker->thread = std::thread([this, w = worker.get()] { work(*w); });
}

ThreadPool::~ThreadPool() {
  static Job wake{};  // any non-null job ends the sleep; `stop` is looked at first
  for (auto& worker : workers_) {
    worker->stop.store(true);
    worker->job.store(&wake);
    worker->job.notify_one();
  }
  for (auto& worker : workers_) worker->thread.join();
}

CoreSet ThreadPool::subset(size_t first_worker, size_t count) {
  if (count == 0 || first_worker + count - 1 > workers_.size())
    fail(ErrorKind::kInvalidInput, "core set of {} from worker {} does not fit a pool of {} threads",
         count, first_worker, size());
  return CoreSet(this, first_worker, count - 1);
}

void ThreadPool::work(Worker& worker) {
  while (true) {
    Job* job = nullptr;
    for (int spin = 0; spin < kSpinsBeforeSleep; ++spin) {
      job = worker.job.load(std::memory_order_acquire);
      if (job != nullptr) break;
      pause_core();
    }
    if (job == nullptr) {
      worker.job.wait(nullptr, std::memory_order_acquire);
      job = worker.job.load(std::memory_order_acquire);
      if (job == nullptr) continue;
    }
    if (worker.stop.load()) return;
    if (!worker.job.compare_exchange_strong(job, &kTaken, std::memory_order_acquire)) continue;
    const size_t core = worker.core.load(std::memory_order_relaxed);
    job->take_pieces(core);
    worker.job.store(nullptr, std::memory_order_relaxed);
    // Release: the caller's acquire of 0 sees what the pieces wrote and the cleared mailbox.
    job->unfinished.fetch_sub(1, std::memory_order_release);
  }
}

void CoreSet::run(size_t n, size_t grain, Call call, void* context) const {
  if (crew_ != nullptr) return crew_->run(n, grain, call, context);
  ThreadPool::Job job{.call = call, .context = context, .n = n, .grain = grain};
  const size_t pieces = (n + grain - 1) / grain;
  const size_t helpers = num_workers_ < pieces - 1 ? num_workers_ : pieces - 1;
  job.unfinished.store(helpers, std::memory_order_relaxed);
  for (size_t i = 0; i < helpers; ++i) {
    ThreadPool::Worker& worker = *pool_->workers_[first_worker_ + i];
    worker.core.store(i + 1, std::memory_order_relaxed);
    worker.job.store(&job, std::memory_order_release);
    worker.job.notify_one();
  }
  job.take_pieces(0);
  for (size_t i = 0; i < helpers; ++i) {
    ThreadPool::Job* waiting = &job;
    if (pool_->workers_[first_worker_ + i]->job.compare_exchange_strong(
            waiting, nullptr, std::memory_order_relaxed))
      job.unfinished.fetch_sub(1, std::memory_order_relaxed);
  }
  for (int spin = 0; job.unfinished.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpinsBeforeYield) {
      pause_core();
    } else {
      std::this_thread::yield();
    }
  }
  if (job.error) std::rethrow_exception(job.error);
}

size_t available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<size_t>(CPU_COUNT(&set));
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1 : n;
}

}  // namespace weft
