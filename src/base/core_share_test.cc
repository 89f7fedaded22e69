#include "base/core_share.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "base/shared_memory.h"
#include "base/spin.h"

namespace weft {
namespace {

constexpr Phase kPhases[] = {Phase::kPrefill, Phase::kDecode};
size_t index(Phase phase) { return static_cast<size_t>(phase); }

CoreShareOptions unpinned(size_t num_cores) { return {.num_cores = num_cores, .pin = false}; }

// Runs body on a thread of its own. A wait that never ends becomes a failure that says where.
class Driver {
 public:
  template <class Body>
  explicit Driver(const char* what, Body body)
      : what_(what), done_(std::async(std::launch::async, std::move(body))) {}
  ~Driver() {
    if (done_.wait_for(std::chrono::minutes(4)) != std::future_status::ready) {
      std::fprintf(stderr, "%s still waits after 4 minutes\n", what_);
      std::abort();
    }
    done_.get();
  }

 private:
  const char* what_;
  std::future<void> done_;
};

void await(const std::atomic<bool>& flag) { flag.wait(false); }
void raise(std::atomic<bool>& flag) {
  flag.store(true);
  flag.notify_all();
}
template <class Condition>
void await_that(const Condition& condition) {
  while (!condition()) std::this_thread::yield();
}

// How often each index was visited.
std::vector<int> visits(const CoreSet& cores, size_t n, size_t grain) {
  std::vector<std::atomic<int>> counts(n);
  cores.parallel_for(n, grain, [&](size_t begin, size_t end, size_t core) {
    EXPECT_LT(core, cores.size());
    for (size_t i = begin; i < end; ++i) counts[i].fetch_add(1, std::memory_order_relaxed);
  });
  std::vector<int> plain;
  for (const auto& count : counts) plain.push_back(count.load());
  return plain;
}

TEST(core, visits_every_index_exactly_once) {
  for (const size_t num_cores : {1, 2, 3, 8}) {
    CoreShare share(unpinned(num_cores));
    for (const Phase phase : kPhases) {
      const CoreShare::Running running(share, phase);
      for (const size_t grain : {0, 1, 2, 7, 64})
        for (const size_t n : {0, 1, 2, 6, 7, 8, 63, 64, 65, 1000})
          EXPECT_EQ(visits(share.cores(phase), n, grain), std::vector<int>(n, 1))
              << num_cores << " cores, phase " << index(phase) << ", n = " << n
              << ", grain = " << grain;
    }
    await_that([&] { return share.settled(); });  // idle workers look up soon
  }
}

// Prefill computes on both cores; core 1 then goes to decode. Prefill may have looked at the border
// just before it moved, so one more piece may begin there; never a second.
TEST(core, reclaim_under_1ms) {
  CoreShare share(unpinned(2));
  share.apply({.prefill_cores = 1, .decode_cores = 1});
  std::array<std::array<std::atomic<size_t>, 2>, 2> begun{};  // pieces, by phase and core
  std::atomic<bool> stop = false;
  const auto drive = [&](Phase phase) {
    const CoreShare::Running running(share, phase);
    while (!stop)
      share.cores(phase).parallel_for(1000, 1, [&](size_t, size_t, size_t core) {
        ++begun[index(phase)][core];
        for (int i = 0; i < 500 && !stop; ++i) pause_core();
      });
  };
  Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
  Driver decode("decode", [&] { drive(Phase::kDecode); });
  const auto& by_prefill = begun[0];
  const auto& by_decode = begun[1];
  await_that([&] { return by_prefill[0] > 0 && by_decode[1] > 0; });  // both are Running from here
  for (int round = 0; round < 50; ++round) {
    share.apply({.prefill_cores = 2, .decode_cores = 0});
    const size_t before = by_prefill[1];
    await_that([&] { return by_prefill[1] > before + 2; });
    share.apply({.prefill_cores = 1, .decode_cores = 1});
    const size_t at_apply = by_prefill[1], decoded = by_decode[1];
    await_that([&] { return by_decode[1] > decoded; });
    const size_t at_hold = by_prefill[1];
    EXPECT_LE(at_hold, at_apply + 1);
    const size_t elsewhere = by_prefill[0];
    await_that([&] { return by_prefill[0] > elsewhere + 5; });
    EXPECT_EQ(by_prefill[1], at_hold);
    EXPECT_TRUE(share.settled());
  }
  stop = true;
}

// A decode step takes all cores from a prefill in the middle of a layer, which then goes on.
TEST(core, decode_interrupts_a_layer_and_it_goes_on) {
  CoreShare share(unpinned(2));
  share.apply({.prefill_cores = 2, .decode_cores = 2, .prefill_duty = 0});
  std::atomic<size_t> begun = 0, decoded = 0;
  std::atomic<bool> under_way = false, last_step_done = false;
  struct LayerDone {};
  Driver prefill("prefill", [&] {
    const CoreShare::Running running(share, Phase::kPrefill);
    const auto layer = [&](size_t, size_t, size_t) {
      if (last_step_done) throw LayerDone();
      if (++begun == 100) raise(under_way);
    };
    EXPECT_THROW(share.cores(Phase::kPrefill).parallel_for(size_t{1} << 60, 1, layer), LayerDone);
  });
  await(under_way);
  for (int step = 0; step < 50; ++step) {
    const size_t between_steps = begun;
    await_that([&] { return begun > between_steps; });
    const CoreShare::Running running(share, Phase::kDecode);
    await_that([&] { return share.settled(); });
    const size_t before = begun;
    share.cores(Phase::kDecode).parallel_for(50, 1, [&](size_t, size_t, size_t) { ++decoded; });
    EXPECT_EQ(begun, before);
  }
  last_step_done = true;
  EXPECT_EQ(decoded, 2500u);
}

// Cores come and go in the middle of jobs; each job still ends, once, with nobody left inside.
TEST(core, membership_at_barrier) {
  constexpr size_t kCores = 4, kPieces = 300;
  CoreShare share(unpinned(kCores));
  std::atomic<bool> stop = false;
  Driver controller("controller", [&] {
    for (uint32_t i = 0; !stop; ++i) {
      const size_t p = philox4x32({i, 0, 0, 0}, {7, 7})[0] % (kCores + 1);
      share.apply({.prefill_cores = p, .decode_cores = kCores - p});
      std::this_thread::yield();
    }
  });
  Driver decode("decode", [&] {  // comes and goes, so that cores move
    while (!stop) {
      const CoreShare::Running running(share, Phase::kDecode);
      visits(share.cores(Phase::kDecode), 20, 1);
    }
  });
  std::atomic<int> inside = 0;
  const CoreShare::Running running(share, Phase::kPrefill);
  for (int job = 0; job < 2000; ++job) {
    std::array<std::atomic<int>, kCores> on_core{};
    std::atomic<size_t> sum = 0;
    share.cores(Phase::kPrefill).parallel_for(kPieces, 1, [&](size_t begin, size_t, size_t core) {
      ++inside;
      EXPECT_EQ(on_core[core].fetch_add(1), 0);
      sum += begin;
      on_core[core].fetch_sub(1);
      --inside;
    });
    EXPECT_EQ(inside, 0) << "job " << job;
    EXPECT_EQ(sum, kPieces * (kPieces - 1) / 2) << "job " << job;
  }
  stop = true;
}

TEST(core, one_core_fallback) {
  CoreShare share(unpinned(1));
  for (const CorePartition& partition :
       {CorePartition{1, 1, 0.5}, CorePartition{1, 1, 0.0}, CorePartition{1, 1, 1.0},
        CorePartition{1, 0}, CorePartition{0, 1}, CorePartition{1, 1, 0.2, false},
        CorePartition{1, 1, std::nullopt}}) {
    share.apply(partition);
    std::array<std::atomic<size_t>, 2> sums{};
    const auto drive = [&](Phase phase) {
      for (int round = 0; round < 20; ++round) {
        const CoreShare::Running running(share, phase);
        EXPECT_EQ(share.cores(phase).size(), 1u);
        share.cores(phase).parallel_for(100, 3, [&](size_t begin, size_t end, size_t core) {
          EXPECT_EQ(core, 0u);
          for (size_t i = begin; i < end; ++i) sums[index(phase)] += i;
        });
      }
    };
    {
      Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
      Driver decode("decode", [&] { drive(Phase::kDecode); });
    }
    EXPECT_EQ(sums[0], 20 * 4950u);
    EXPECT_EQ(sums[1], 20 * 4950u);
  }
}

// The job's first piece waits until a worker has come to the lent core in the middle of it.
TEST(core, lends_an_idle_phases_cores_in_the_middle_of_a_job) {
  CoreShare share(unpinned(2));
  std::atomic<bool> borrowed = false, begun = false;
  auto decode = std::make_unique<CoreShare::Running>(share, Phase::kDecode);
  Driver prefill("prefill", [&] {
    const CoreShare::Running running(share, Phase::kPrefill);
    share.cores(Phase::kPrefill).parallel_for(100, 1, [&](size_t begin, size_t, size_t core) {
      if (core == 1) raise(borrowed);
      if (begin == 0) {
        raise(begun);
        await(borrowed);
      }
    });
  });
  await(begun);
  EXPECT_FALSE(borrowed);
  decode.reset();
}

TEST(core, strict_never_lends) {
  CoreShare share(unpinned(2));
  for (const Phase phase : kPhases) {
    share.apply({.prefill_cores = 1, .decode_cores = 1, .lend = false});
    const CoreShare::Running running(share, phase);
    std::set<size_t> seen;
    for (int job = 0; job < 5; ++job)
      share.cores(phase).parallel_for(200, 1, [&](size_t, size_t, size_t core) {
        seen.insert(core);
        for (int i = 0; i < 200; ++i) pause_core();  // long enough for a worker to come
      });
    EXPECT_EQ(seen, std::set<size_t>{phase == Phase::kPrefill ? 0u : 1u});
  }
}

// Virtual time passes with the pieces: 100 us each, whoever computes them.
struct Turns {
  std::atomic<int64_t> now_ns{0};
  CoreShare share;
  explicit Turns(size_t num_cores)
      : share({.num_cores = num_cores, .pin = false, .now = [this] {
                 return std::chrono::nanoseconds(now_ns.load());
               }}) {}
};

TEST(core, duty_is_prefills_share_of_the_time) {
  for (const double duty : {0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0}) {
    Turns turns(1);
    turns.share.apply({.prefill_cores = 1, .decode_cores = 1, .prefill_duty = duty});
    std::array<int64_t, 2> used_ns{};
    // Prefill enters first and decode, to which the first turn is due, starts the clock.
    std::atomic<bool> prefilling = false, started = false;
    constexpr int64_t kEnd = 2'000'000'000;
    const auto drive = [&](Phase phase) {
      if (phase == Phase::kDecode) await(prefilling);
      const CoreShare::Running running(turns.share, phase);
      while (turns.now_ns < kEnd)
        turns.share.cores(phase).parallel_for(10, 1, [&](size_t, size_t, size_t) {
          raise(phase == Phase::kPrefill ? prefilling : started);
          if (!started || turns.now_ns >= kEnd) return;
          used_ns[index(phase)] += 100'000;
          turns.now_ns += 100'000;
        });
    };
    {
      Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
      Driver decode("decode", [&] { drive(Phase::kDecode); });
    }
    EXPECT_EQ(used_ns[0] + used_ns[1], kEnd);
    // Off by the slices at both ends (4 ms) and the piece that a turn runs over (0.1 ms).
    EXPECT_NEAR(static_cast<double>(used_ns[0]) / kEnd, duty, 0.003);
  }
}

// Steps of 4 ms at duty 0.5: decode gives the core at the end of a step, is never interrupted in
// the middle of one, and prefill has as much in between.
TEST(core, turns_change_between_decode_steps) {
  Turns turns(1);
  turns.share.apply({.prefill_cores = 1, .decode_cores = 1, .prefill_duty = 0.5});
  std::atomic<bool> stop = false, prefilling = false;
  std::atomic<int> pieces_of_prefill = 0;
  Driver prefill("prefill", [&] {
    const CoreShare::Running running(turns.share, Phase::kPrefill);
    while (!stop)
      turns.share.cores(Phase::kPrefill).parallel_for(10, 1, [&](size_t, size_t, size_t) {
        ++pieces_of_prefill;
        turns.now_ns += 100'000;
        raise(prefilling);
      });
  });
  await(prefilling);
  {
    CoreShare::Running running(turns.share, Phase::kDecode);
    int total = 0;
    for (int step = 0; step < 50; ++step) {
      const int before = pieces_of_prefill;
      turns.share.cores(Phase::kDecode).parallel_for(40, 1, [&](size_t, size_t, size_t) {
        turns.now_ns += 100'000;
      });
      EXPECT_EQ(pieces_of_prefill, before) << "in step " << step;
      running.step_done();
      total += pieces_of_prefill - before;
      // (Before the first step, prefill went on for a few pieces while decode entered.)
      if (step > 0) {
        EXPECT_NEAR(pieces_of_prefill - before, 40, 2) << "after step " << step;
      }
    }
    EXPECT_NEAR(total, 50 * 40, 100);
  }
  stop = true;
}

// Steps of 4 ms, and 6 ms of prefill after each: the next step ends 10 ms after the one before.
TEST(core, turns_by_steps_bound_the_time_between_two_steps) {
  Turns turns(1);
  turns.share.apply({.prefill_cores = 1, .decode_cores = 1, .by_steps = true});
  turns.share.set_prefill_turn(std::chrono::milliseconds(6));
  std::atomic<bool> stop = false, prefilling = false;
  std::atomic<int> pieces_of_prefill = 0;
  Driver prefill("prefill", [&] {
    const CoreShare::Running running(turns.share, Phase::kPrefill);
    while (!stop)
      turns.share.cores(Phase::kPrefill).parallel_for(7, 1, [&](size_t, size_t, size_t) {
        ++pieces_of_prefill;
        turns.now_ns += 100'000;
        raise(prefilling);
      });
  });
  await(prefilling);
  {
    CoreShare::Running running(turns.share, Phase::kDecode);
    for (int step = 0; step < 50; ++step) {
      const int before = pieces_of_prefill;
      turns.share.cores(Phase::kDecode).parallel_for(40, 1, [&](size_t, size_t, size_t) {
        turns.now_ns += 100'000;
      });
      EXPECT_EQ(pieces_of_prefill, before) << "in step " << step;
      running.step_done();
      EXPECT_EQ(pieces_of_prefill - before, 60) << "after step " << step;
    }
  }
  stop = true;
}

// The clock goes back by an hour, then forth by two: turns go on changing.
TEST(core, a_clock_that_jumps_does_not_stop_the_turns) {
  constexpr int64_t kHour = 3'600'000'000'000;
  constexpr int kPieces = 2000;  // of each phase
  Turns turns(1);
  turns.now_ns = kHour;
  turns.share.apply({.prefill_cores = 1, .decode_cores = 1, .prefill_duty = 0.5});
  std::atomic<bool> prefilling = false, started = false;
  // Touched by the one core's holder alone.
  std::array<int, 2> done{};
  int streak = 0, longest = 0;
  Phase last = Phase::kPrefill;
  const auto drive = [&](Phase phase) {
    if (phase == Phase::kDecode) await(prefilling);
    const CoreShare::Running running(turns.share, phase);
    while (done[index(phase)] < kPieces)
      turns.share.cores(phase).parallel_for(10, 1, [&](size_t, size_t, size_t) {
        raise(phase == Phase::kPrefill ? prefilling : started);
        if (!started) return;
        turns.now_ns += 100'000;
        const int total = ++done[index(phase)] + done[1 - index(phase)];
        if (total == 1000) turns.now_ns -= kHour;
        if (total == 2000) turns.now_ns += 2 * kHour;
        if (done[1 - index(phase)] >= kPieces) return;  // the other has left
        streak = phase == last ? streak + 1 : 1;
        last = phase;
        longest = std::max(longest, streak);
      });
  };
  {
    Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
    Driver decode("decode", [&] { drive(Phase::kDecode); });
  }
  EXPECT_LE(longest, 90);  // a turn is 8 ms, 80 pieces; the jumps may stretch one by a little
}

TEST(core, free_runs_both_phases_on_one_core) {
  CoreShare share(unpinned(1));
  share.apply({.prefill_cores = 1, .decode_cores = 1, .prefill_duty = std::nullopt});
  std::array<std::atomic<bool>, 2> inside{};
  const auto drive = [&](Phase phase) {
    const CoreShare::Running running(share, phase);
    share.cores(phase).parallel_for(1, 1, [&](size_t, size_t, size_t) {
      raise(inside[index(phase)]);
      await(inside[1 - index(phase)]);
    });
  };
  Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
  Driver decode("decode", [&] { drive(Phase::kDecode); });
}

TEST(core, an_exception_reaches_the_driver_and_the_share_lives_on) {
  CoreShare share(unpinned(4));
  for (const Phase phase : kPhases) {
    const CoreShare::Running running(share, phase);
    const CoreSet cores = share.cores(phase);
    for (const size_t culprit : {0, 1, 50, 99}) {
      try {
        cores.parallel_for(100, 1, [&](size_t begin, size_t, size_t) {
          if (begin == culprit) fail(ErrorKind::kTimeout, "piece {}", begin);
        });
        FAIL() << "nothing thrown for piece " << culprit;
      } catch (const Error& error) {
        EXPECT_EQ(error.what(), "piece " + std::to_string(culprit));
      }
      EXPECT_EQ(visits(cores, 100, 1), std::vector<int>(100, 1));
    }
    EXPECT_THROW(cores.parallel_for(1, 1, [](size_t, size_t, size_t) { throw 1; }), int);
  }
}

TEST(core, refuses_partitions_that_cannot_work) {
  EXPECT_THROW(CoreShare(unpinned(0)), Error);
  CoreShare share(unpinned(2));
  const CorePartition before = share.partition();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const CorePartition& wrong :
       {CorePartition{3, 0}, CorePartition{1, 3}, CorePartition{0, 2, 0.5, false},
        CorePartition{2, 0, 0.5, false}, CorePartition{2, 2, nan}, CorePartition{2, 2, -0.1},
        CorePartition{2, 2, 1.1}}) {
    EXPECT_THROW(share.apply(wrong), Error);
    EXPECT_EQ(share.partition(), before);
  }
}

// Two drivers that come and go, a controller that moves everything all the time. No core ever has
// two threads, each sum is exact, all ends. TSan watches.
TEST(core, stress) {
  constexpr size_t kCores = 3, kValues = 100;
  constexpr int kRounds = 3000;
  CoreShare share(unpinned(kCores));
  std::array<std::atomic<int>, kCores> on_core{};
  std::atomic<int> driving = 2;
  const auto drive = [&](Phase phase) {
    for (int round = 0; round < kRounds; ++round) {
      CoreShare::Running running(share, phase);
      for (int job = 0; job < 1 + round % 3; ++job) {
        std::vector<size_t> squares(kValues);
        share.cores(phase).parallel_for(
            kValues, 1 + round % 7, [&](size_t begin, size_t end, size_t core) {
              EXPECT_EQ(on_core[core].fetch_add(1), 0) << "core " << core;
              for (size_t i = begin; i < end; ++i) squares[i] = i * i;
              on_core[core].fetch_sub(1);
            });
        size_t sum = 0;
        for (const size_t square : squares) sum += square;
        EXPECT_EQ(sum, (kValues - 1) * kValues * (2 * kValues - 1) / 6);
        running.step_done();
      }
    }
    --driving;
  };
  Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
  Driver decode("decode", [&] { drive(Phase::kDecode); });
  for (uint32_t i = 0; driving != 0; ++i) {
    const PhiloxCounter random = philox4x32({i, 0, 0, 0}, {3, 5});
    CorePartition partition{.prefill_cores = random[0] % (kCores + 1),
                            .decode_cores = random[1] % (kCores + 1),
                            .prefill_duty = (random[2] % 5) / 4.0};
    partition.lend =
        random[3] % 2 == 0 || partition.prefill_cores == 0 || partition.decode_cores == 0;
    share.apply(partition);
    std::this_thread::yield();
  }
}

TEST(core, comes_and_goes) {
  for (int round = 0; round < 50; ++round) {
    CoreShare share({.num_cores = 1 + static_cast<size_t>(round) % 4, .pin = round % 2 == 0});
    if (round % 3 == 0) continue;
    Driver driver("driver", [&] {
      const Phase phase = kPhases[round % 2];
      share.pin_driver(phase);
      const CoreShare::Running running(share, phase);
      EXPECT_EQ(visits(share.cores(phase), 16, 1), std::vector<int>(16, 1));
    });
  }
}

// The three parts of a share whose phases compute in processes of their own; here in threads of
// one.
struct Parts {
  CoreShareOptions part(CoreShareRole role) {
    return {.num_cores = 3, .pin = false, .role = role, .memory = memory.data()};
  }
  CoreSet cores(Phase phase) { return (phase == Phase::kPrefill ? prefill : decode).cores(phase); }

  Buffer memory{CoreShare::shared_bytes(3), "a test"};
  CoreShare front{part(CoreShareRole::kFront)};
  CoreShare prefill{part(CoreShareRole::kPrefill)}, decode{part(CoreShareRole::kDecode)};
};

// The front drives, a phase's process computes; cores change hands between them as within one.
TEST(core, phases_in_processes_share_the_cores) {
  constexpr int kRounds = 300;
  Parts parts;
  std::array<std::atomic<int>, 3> on_core{};
  std::atomic<int> driving = 2;
  const auto drive = [&](Phase phase) {
    for (int round = 0; round < kRounds; ++round) {
      CoreShare::Running running(parts.front, phase);
      for (int job = 0; job < 1 + round % 3; ++job) {
        std::atomic<size_t> sum{0};
        parts.cores(phase).parallel_for(100, 1 + static_cast<size_t>(round) % 7,
                                        [&](size_t begin, size_t end, size_t core) {
                                          EXPECT_EQ(on_core[core].fetch_add(1), 0);
                                          sum.fetch_add(end - begin);
                                          on_core[core].fetch_sub(1);
                                        });
        EXPECT_EQ(sum.load(), 100u);
        running.step_done();
      }
    }
    --driving;
  };
  Driver prefill("prefill", [&] { drive(Phase::kPrefill); });
  Driver decode("decode", [&] { drive(Phase::kDecode); });
  for (uint32_t i = 0; driving != 0; ++i) {
    const PhiloxCounter random = philox4x32({i, 0, 0, 0}, {4, 6});
    parts.front.apply({.prefill_cores = 1 + random[0] % 3,
                       .decode_cores = 1 + random[1] % 3,
                       .prefill_duty = (random[2] % 5) / 4.0,
                       .lend = random[3] % 2 == 0});
    std::this_thread::yield();
  }
}

// A phase's process dies in the middle of its work: the other phase gets the cores that it held.
TEST(core, what_a_dead_process_held_comes_back) {
  SharedMemory shared("a test");
  Buffer memory = shared.append(CoreShare::shared_bytes(3));
  const auto part = [&](CoreShareRole role) {
    return CoreShareOptions{.num_cores = 3, .pin = false, .role = role, .memory = memory.data()};
  };
  CoreShare front(part(CoreShareRole::kFront));
  front.apply({.prefill_cores = 1, .decode_cores = 2});
  std::optional<CoreShare::Running> decode(std::in_place, front, Phase::kDecode);
  int computes[2];
  ASSERT_EQ(pipe(computes), 0);
  const pid_t child = fork();
  if (child == 0) {
    CoreShare share(part(CoreShareRole::kDecode));
    share.cores(Phase::kDecode).parallel_for(3, 1, [&](size_t, size_t, size_t core) {
      if (core == 1) (void)!write(computes[1], "1", 1);
      while (true) pause();
    });
  }
  char byte = 0;
  ASSERT_EQ(read(computes[0], &byte, 1), 1);
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  front.evict(Phase::kDecode);
  front.retake(Phase::kDecode);
  decode.reset();

  CoreShare prefill(part(CoreShareRole::kPrefill));
  Driver driver("prefill", [&] {
    const CoreShare::Running running(front, Phase::kPrefill);
    // All three are lent to it, so three pieces that wait for each other end.
    std::atomic<int> inside{0};
    prefill.cores(Phase::kPrefill).parallel_for(3, 1, [&](size_t, size_t, size_t) {
      ++inside;
      await_that([&] { return inside == 3; });
    });
  });
}

}  // namespace
}  // namespace weft
