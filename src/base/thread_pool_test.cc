#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/error.h"

namespace weft {
namespace {

// How often each index was visited, by cores of `cores`.
std::vector<int> visits(const CoreSet& cores, size_t n, size_t grain) {
  std::vector<std::atomic<int>> counts(n);
  cores.parallel_for(n, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) counts[i].fetch_add(1, std::memory_order_relaxed);
  });
  std::vector<int> plain;
  for (const auto& count : counts) plain.push_back(count.load());
  return plain;
}

TEST(thread_pool, visits_every_index_exactly_once) {
  for (const size_t threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const size_t grain : {0, 1, 2, 7, 64})
      for (const size_t n : {0, 1, 2, 6, 7, 8, 63, 64, 65, 192, 1000})
        EXPECT_EQ(visits(pool.cores(), n, grain), std::vector<int>(n, 1))
            << threads << " threads, n = " << n << ", grain = " << grain;
  }
}

TEST(thread_pool, a_default_core_set_is_the_calling_thread) {
  const CoreSet cores;
  EXPECT_EQ(cores.size(), 1u);
  std::set<std::thread::id> seen;
  cores.parallel_for(100, 3, [&](size_t, size_t, size_t core) {
    EXPECT_EQ(core, 0u);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen, std::set<std::thread::id>{std::this_thread::get_id()});
}

TEST(thread_pool, pieces_are_a_grain_long_but_the_last) {
  ThreadPool pool(3);
  std::mutex mutex;
  std::multiset<size_t> lengths;
  pool.cores().parallel_for(25, 10, [&](size_t begin, size_t end, size_t) {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(begin % 10, 0u);
    lengths.insert(end - begin);
  });
  EXPECT_EQ(lengths, (std::multiset<size_t>{5, 10, 10}));
}

TEST(thread_pool, a_core_number_is_one_thread_at_a_time) {
  ThreadPool pool(4);
  std::vector<std::atomic<bool>> busy(4);
  pool.cores().parallel_for(2000, 1, [&](size_t, size_t, size_t core) {
    ASSERT_LT(core, busy.size());
    EXPECT_FALSE(busy[core].exchange(true)) << "core " << core;
    busy[core].store(false);
  });
}

TEST(thread_pool, an_exception_reaches_the_caller_and_the_pool_lives_on) {
  ThreadPool pool(4);
  for (const size_t culprit : {0, 1, 50, 99}) {
    try {
      pool.cores().parallel_for(100, 1, [&](size_t begin, size_t, size_t) {
        if (begin == culprit) fail(ErrorKind::kTimeout, "piece {}", begin);
      });
      FAIL() << "nothing thrown for piece " << culprit;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kTimeout);
      EXPECT_EQ(error.what(), "piece " + std::to_string(culprit));
    }
    EXPECT_EQ(visits(pool.cores(), 100, 1), std::vector<int>(100, 1));
  }
}

TEST(thread_pool, an_exception_on_one_core_reaches_the_caller) {
  const CoreSet cores;
  EXPECT_THROW(
      cores.parallel_for(3, 1, [](size_t, size_t, size_t) { throw std::logic_error("no"); }),
      std::logic_error);
}

TEST(thread_pool, refuses_sets_that_do_not_fit) {
  EXPECT_THROW(ThreadPool(0), Error);
  ThreadPool pool(3);
  EXPECT_EQ(pool.subset(0, 3).size(), 3u);
  EXPECT_EQ(pool.subset(2, 1).size(), 1u);
  EXPECT_THROW(pool.subset(0, 0), Error);
  EXPECT_THROW(pool.subset(0, 4), Error);
  EXPECT_THROW(pool.subset(2, 2), Error);
}

// Two engine threads drive halves of one pool at once, as prefill and decode do, while the halves
// change size between calls. TSan watches.
TEST(thread_pool, two_threads_drive_disjoint_subsets) {
  constexpr size_t kRounds = 400, kValues = 500;
  ThreadPool pool(5);  // workers 0 ... 3
  const auto drive = [&](size_t offset) {
    for (size_t round = 0; round < kRounds; ++round) {
      const size_t count = 1 + round % 3;
      const CoreSet cores = pool.subset(offset, count);
      std::vector<size_t> squares(kValues);
      cores.parallel_for(kValues, 1 + round % 17, [&](size_t begin, size_t end, size_t core) {
        EXPECT_LT(core, count);
        for (size_t i = begin; i < end; ++i) squares[i] = i * i;
      });
      // 0^2 + ... + (n-1)^2
      EXPECT_EQ(std::accumulate(squares.begin(), squares.end(), size_t{0}),
                (kValues - 1) * kValues * (2 * kValues - 1) / 6);
    }
  };
  std::thread other(drive, 2);
  drive(0);
  other.join();
}

// Writes of one region are seen by the next, whoever computes it; sleeping workers wake.
TEST(thread_pool, regions_follow_one_another_for_long) {
  ThreadPool pool(4);
  constexpr size_t kValues = 64;
  std::vector<size_t> values(kValues, 0);
  constexpr size_t kRounds = 3000;
  for (size_t round = 0; round < kRounds; ++round) {
    pool.cores().parallel_for(kValues, 5, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) ++values[i];
    });
  }
  EXPECT_EQ(values, std::vector<size_t>(kValues, kRounds));
}

TEST(thread_pool, comes_and_goes) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(1 + round % 4);
    if (round % 2 == 0) {
      EXPECT_EQ(visits(pool.cores(), 16, 1), std::vector<int>(16, 1));
    }
  }
}

TEST(available_cores, is_at_least_one) { EXPECT_GE(available_cores(), 1u); }

// A thread that stands still in a signal handler is to the pool what a worker is that the system
// does not schedule.
int stopped_pipe[2], go_on_pipe[2];
void stand_still(int) {
  char c = 0;
  if (write(stopped_pipe[1], &c, 1) != 1 || read(go_on_pipe[0], &c, 1) != 1) abort();
}

TEST(thread_pool, does_not_wait_for_a_worker_that_has_not_begun) {
  const auto threads = [] {
    std::set<pid_t> ids;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task"))
      ids.insert(std::stoi(entry.path().filename().string()));
    return ids;
  };
  const std::set<pid_t> before = threads();
  auto pool = std::make_unique<ThreadPool>(2);
  pid_t worker = 0;
  for (const pid_t id : threads())
    if (!before.contains(id)) worker = id;
  ASSERT_NE(worker, 0);
  ASSERT_EQ(pipe(stopped_pipe), 0);
  ASSERT_EQ(pipe(go_on_pipe), 0);
  std::signal(SIGUSR1, stand_still);
  ASSERT_EQ(syscall(SYS_tgkill, getpid(), worker, SIGUSR1), 0);
  char c = 0;
  ASSERT_EQ(read(stopped_pipe[0], &c, 1), 1);

  size_t sum = 0;  // one core does it all, so nothing races
  for (int round = 0; round < 3; ++round)
    pool->cores().parallel_for(100, 1, [&](size_t begin, size_t, size_t core) {
      EXPECT_EQ(core, 0u);
      sum += begin;
    });
  EXPECT_EQ(sum, 3 * 4950u);

  ASSERT_EQ(write(go_on_pipe[1], &c, 1), 1);
  std::atomic<size_t> seen = 0;
  pool->cores().parallel_for(100, 1, [&](size_t, size_t, size_t) { ++seen; });
  EXPECT_EQ(seen, 100u);
  pool.reset();
  std::signal(SIGUSR1, SIG_DFL);
  for (const int end : {stopped_pipe[0], stopped_pipe[1], go_on_pipe[0], go_on_pipe[1]}) close(end);
}

}  // namespace
}  // namespace weft
