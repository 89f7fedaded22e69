// Work runs as parallel_for on a CoreSet that the caller passes; nobody starts threads of their own.
//
// A ThreadPool of n threads is the calling thread plus n-1 workers. A CoreSet names some of them: the
// thread that calls parallel_for, and workers [first, first + size - 1). Two threads may each drive
// a CoreSet of the same pool at the same time as long as the sets share no worker (semi-PD: prefill
// and decode); a set may be replaced by a smaller or larger one between two calls. Where cores must
// change hands inside a call, the sets come from a CoreShare (core_share.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

namespace weft {

class PhaseCrew;  // core_share.h
class ThreadPool;

class CoreSet {
 public:
  CoreSet() = default;  // the calling thread alone
  size_t size() const { return num_workers_ + 1; }

  // Calls body(begin, end, core) for disjoint pieces of [0, n), each `grain` long but the last, on the
  // cores of the set; `core` < size() tells which, for per-core scratch. Pieces are handed out as
  // cores become free, so results must not depend on who computes a piece. Returns when all are
  // done; the first exception of a body is rethrown here. Not reentrant on the same set.
  template <typename Body>
  void parallel_for(size_t n, size_t grain, Body&& body) const {
    if (n == 0) return;
    if (grain == 0) grain = 1;
    if ((num_workers_ == 0 || n <= grain) && crew_ == nullptr) {
      for (size_t begin = 0; begin < n; begin += grain)
        body(begin, begin + grain < n ? begin + grain : n, size_t{0});
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run(n, grain, [](void* context, size_t begin, size_t end, size_t core) {
      (*static_cast<Plain*>(context))(begin, end, core);
    }, const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  friend class CoreShare;
  friend class PhaseCrew;
  friend class ThreadPool;
  using Call = void (*)(void* context, size_t begin, size_t end, size_t core);
  CoreSet(ThreadPool* pool, size_t first_worker, size_t num_workers)
      : pool_(pool), first_worker_(first_worker), num_workers_(num_workers) {}
  CoreSet(PhaseCrew* crew, size_t num_cores) : crew_(crew), num_workers_(num_cores - 1) {}
  void run(size_t n, size_t grain, Call call, void* context) const;

  ThreadPool* pool_ = nullptr;
  PhaseCrew* crew_ = nullptr;  // of a CoreShare, instead of a pool
  size_t first_worker_ = 0;
  size_t num_workers_ = 0;
};

// Workers spin for a short while after each piece of work (a decode step is some 150 of them), then
// sleep until the next. Outlives every CoreSet taken from it.
class ThreadPool {
 public:
  explicit ThreadPool(size_t num_threads);  // kInvalidInput for 0
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t size() const { return workers_.size() + 1; }
  CoreSet cores() { return CoreSet(this, 0, workers_.size()); }
  // `count` cores, the caller among them, using workers first_worker ... first_worker + count - 2.
  CoreSet subset(size_t first_worker, size_t count);

 private:
  friend class CoreSet;
  struct Job;
  struct Worker;
  static Job kTaken;  // stands in a worker's mailbox while it helps
  void work(Worker& worker);
  std::vector<std::unique_ptr<Worker>> workers_;
};

// Cores this process may run on (its affinity mask, not the machine's count).
size_t available_cores();

}  // namespace weft
