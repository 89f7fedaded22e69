// Two phases over the same cores: the computation resource controller of semi-PD (Hong et al.,
// arXiv 2504.19867, §4.2). There a phase is a process with a percentage of a GPU; here it is a
// driver thread that calls parallel_for on cores(phase), and cores change hands between two pieces.
//
// Each phase has one thread for each core: its driver on its home core (prefill: the first, decode:
// the last) and a worker on every other one. Of the two threads of a core, the one that holds the
// core runs and the other sleeps. Prefill may use cores [0, prefill_end), decode [decode_begin, C);
// that pair is one atomic word. Every thread reads it before each piece: a core that went to the
// other phase is let go there, and a worker whose core now serves its phase joins the job in
// progress. So a core is reclaimed after at most one piece, which should last 200 us or less.
//
// A phase that has nothing to run leaves (Running), and lends its cores to the other at once. Cores
// that belong to both are taken in turns, all of them together, so that a decode step has them all
// from its beginning to its end; `prefill_duty` is prefill's share of the time.
//
// What a piece computes does not depend on who computes it, so neither do results.
//
// The phases may compute in processes of their own: borders, turns, holders and the sleepers'
// signals then live in memory that all map. The front process drives both phases (Running) and has
// no workers; while it waits for a phase's process, that one's main thread drives, and its workers
// help. A core changes hands between processes as it does between threads. When a phase's process
// dies, the front takes back what it held (evict).
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/shared_sync.h"
#include "base/thread_pool.h"

namespace weft {

enum class Phase : uint8_t { kPrefill = 0, kDecode = 1 };

// Which cores a phase may use while both have work. Prefill has the first ones and decode the last
// ones; where the sum exceeds the number of cores, the middle belongs to both.
struct CorePartition {
  size_t prefill_cores = 1;
  size_t decode_cores = 1;
  // Share of the time that prefill has the common cores. 0: only what decode leaves (a decode step
  // interrupts prefill and has every common core); 1: the reverse. None: both run there at once and
  // the system shares out, as with MPS at (100, 100).
  std::optional<double> prefill_duty = 0.5;
  bool lend = true;  // cores of a phase without work serve the other
  // Instead of a duty: prefill has the common cores for as long as set_prefill_turn() says, then
  // decode for a whole step. So the time between two steps is bounded, whatever prefill does.
  bool by_steps = false;
  bool operator==(const CorePartition&) const = default;
};

// Which part of a CoreShare this process has. The front's is made first.
enum class CoreShareRole : uint8_t { kWhole, kFront, kPrefill, kDecode };

struct CoreShareOptions {
  size_t num_cores = 1;
  bool pin = true;  // workers to one CPU each of the caller's affinity mask, where it has enough
  // A phase may run ahead of its duty by this much time of the other's before the turn changes:
  // 2 ms is half a decode step of a small model, and a thousand times what a turn costs.
  std::chrono::nanoseconds slice = std::chrono::milliseconds(2);
  std::function<std::chrono::nanoseconds()> now = {};  // the steady clock if none
  CoreShareRole role = CoreShareRole::kWhole;
  // For the other roles: CoreShare::shared_bytes() of shared memory, zeros for the front's.
  uint8_t* memory = nullptr;
  // Goes up five times a second while a driver waits for its core: the sign that it lives.
  std::atomic<uint32_t>* beat = nullptr;
};

class CoreShare {
 public:
  explicit CoreShare(CoreShareOptions options);  // kInvalidInput: no core, or slice <= 0
  ~CoreShare();                                  // no phase is Running, but for a phase's process
  static size_t shared_bytes(size_t num_cores);
  CoreShare(const CoreShare&) = delete;
  CoreShare& operator=(const CoreShare&) = delete;

  size_t size() const { return num_cores_; }
  // As many cores as there are, since any of them may serve the phase at some time; `core` in a
  // body is below size(). Used by one thread at a time, while it is Running. Outlived by the
  // CoreShare.
  CoreSet cores(Phase phase);

  // Any time, any thread, a few microseconds. kInvalidInput: more cores than there are, a duty that
  // is not in [0, 1], or a phase that could never run (no cores, and none lent).
  void apply(const CorePartition& partition);
  CorePartition partition() const;
  // Of partitions by steps, from the end of a decode step on. Any thread, any time.
  void set_prefill_turn(std::chrono::nanoseconds turn);

  // Keeps the calling thread on the phase's home core from now on, if the options say so. Drivers
  // call it once.
  void pin_driver(Phase phase) const;

  // The calling thread drives the phase and has work: from here the phase claims its cores. Waits
  // for the home core; the thread may compute between parallel_for calls, but must not block while
  // Running (the core would lie idle). One for each phase at a time.
  class Running {
   public:
    Running(CoreShare& share, Phase phase) : share_(share), phase_(phase) { share_.enter(phase_); }
    ~Running() { share_.leave(phase_); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    // Between two decode steps or chunks, where handing over common cores costs least: does so if
    // the other phase has work and some time is due to it. Waits until the core comes back.
    void step_done() { share_.offer_turn(phase_); }

   private:
    CoreShare& share_;
    Phase phase_;
  };

  // In the front, when the phase's process has died and before there is another: the cores that its
  // workers held are free. If it died while it drove the phase, the front's driver calls retake()
  // before it goes on; until then its home core may count as held.
  void evict(Phase phase);
  void retake(Phase phase);

  // For tests and metrics. No core is held by a phase that may not use it:
  bool settled() const;
  // How often a core went from one phase to the other:
  uint64_t core_moves() const { return shared_->core_moves.load(std::memory_order_relaxed); }

 private:
  friend class PhaseCrew;

  struct alignas(8) Border {  // aligned as a word: Clang calls libatomic for it otherwise
    uint32_t prefill_end, decode_begin;
    bool gives(Phase phase, size_t core) const {
      return phase == Phase::kPrefill ? core < prefill_end : core >= decode_begin;
    }
  };
  struct alignas(64) Core {
    std::atomic<uint32_t> holders{0};  // bit 1 << phase; both only where the duty is none
    std::atomic<uint8_t> last{0};      // the phase that held it last
  };
  struct alignas(64) Seat {
    SharedSignal signal;  // raised when the phase's thread of this core should look again
  };
  struct alignas(64) Gate {
    std::atomic<uint32_t> word{0};  // PhaseCrew's
  };
  // What the processes have in common, followed by num_cores Cores, and as many Seats for each
  // phase.
  struct Shared {
    static_assert(std::atomic<Border>::is_always_lock_free);
    alignas(64) std::atomic<Border> border;
    std::atomic<bool> taking_turns{false};
    std::atomic<uint64_t> core_moves{0};
    Gate gates[2];

    alignas(64) SharedMutex mutex;  // guards what follows, and every change of border
    CorePartition partition;
    bool running[2] = {false, false};
    Phase turn = Phase::kDecode;  // who has the common cores
    std::chrono::nanoseconds prefill_turn = std::chrono::milliseconds(2);
    std::chrono::nanoseconds turn_began{0};  // prefill's, where turns go by steps
    // Time that prefill was entitled to on the common cores, less what it had, in [-slice, slice].
    double balance_ns = 0;
    std::chrono::nanoseconds charged_until{0};
  };

  bool gives(Phase phase, size_t core) const { return shared_->border.load().gives(phase, core); }
  bool try_hold(Phase phase, size_t core);
  void hold(Phase phase, size_t core);
  void let_go(Phase phase, size_t core);
  void invite(Phase phase, size_t core);
  void enter(Phase phase);
  void leave(Phase phase);
  void set_up();
  void watch_duty();
  void offer_turn(Phase phase);
  void pin(std::thread::native_handle_type thread, size_t core) const;
  PhaseCrew& crew(Phase phase) const { return *crews_[static_cast<size_t>(phase)]; }

  SharedSignal& signal(Phase phase, size_t core) const {
    return seats_[static_cast<size_t>(phase) * num_cores_ + core].signal;
  }
  void wake(Phase phase, size_t core) { signal(phase, core).raise(); }
  std::atomic<uint32_t>& gate(Phase phase) const {
    return shared_->gates[static_cast<size_t>(phase)].word;
  }
  size_t home(Phase phase) const { return phase == Phase::kPrefill ? 0 : num_cores_ - 1; }

  // With the mutex held.
  bool runs(Phase phase) const { return shared_->running[static_cast<size_t>(phase)]; }
  bool takes_turns() const;
  void charge();
  void choose_turn();
  void draw_border();

  const size_t num_cores_;
  const CoreShareOptions options_;
  std::vector<int> cpus_;  // the affinity mask at construction; empty: no pinning
  Buffer own_memory_;      // of kWhole
  Shared* const shared_;   // there, or in the options' memory; so are the following
  Core* const cores_;
  Seat* const seats_;
  std::atomic<bool> stop_{false};

  std::unique_ptr<PhaseCrew> crews_[2];  // last: their threads use all of the above
};

// One phase's threads and the job that they share. Internal to CoreShare; CoreSet calls run().
class PhaseCrew {
 public:
  PhaseCrew(CoreShare& share, Phase phase);
  ~PhaseCrew();
  void run(size_t n, size_t grain, CoreSet::Call call, void* context);

 private:
  friend class CoreShare;
  // The gate of the job: [open:1][number of the job:15][workers inside:16]. A worker enters by
  // raising the count of an open gate, and only then reads the job; the driver closes the gate and
  // waits for the count to fall to 0 before it returns. Reading the job is thus safe whichever job
  // it turns out to be, and a number that comes round again does no harm.
  static constexpr uint32_t kOpen = 1u << 31, kNumberStep = 1u << 16, kInside = kNumberStep - 1;
  static constexpr uint32_t kNumber = ~(kOpen | kInside);

  void start();
  void work(size_t core);
  bool has_job(uint32_t finished) const;
  bool help(size_t core, uint32_t& finished);
  bool await_job(size_t core, uint32_t finished) const;
  bool take_pieces(size_t core);

  CoreShare& share_;
  const Phase phase_;
  const size_t home_;
  std::vector<std::thread> threads_;  // none for the home core, which is the driver's

  std::atomic<uint32_t>& gate_;
  CoreSet::Call call_ = nullptr;
  void* context_ = nullptr;
  size_t n_ = 0, grain_ = 1;
  alignas(64) std::atomic<size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // written by whoever turned `failed_`, read when the gate is empty
};

}  // namespace weft
