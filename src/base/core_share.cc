#include "base/core_share.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/spin.h"

// Why no wake-up is lost. A sleeper reads its signal, then what it waits for (border, holder,
// gate), then sleeps unless the signal has changed; whoever changes one of these raises the signal
// after. Waking is left out in two cases, each safe because stores and loads of border_, holders
// and gate_ are sequentially consistent, so of two threads that each write one and read the other,
// one sees:
// - the core is held by the other phase: its holder lets go, then reads the border, then invites;
// - a worker's phase has no open job: the driver opens the gate, then reads the border, then wakes.
namespace weft {
namespace {

constexpr Phase other(Phase phase) {
  return phase == Phase::kPrefill ? Phase::kDecode : Phase::kPrefill;
}
constexpr uint32_t bit(Phase phase) { return 1u << static_cast<unsigned>(phase); }

std::chrono::nanoseconds steady_now() {
  return std::chrono::steady_clock::now().time_since_epoch();
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

}  // namespace

size_t CoreShare::shared_bytes(size_t num_cores) {
  return sizeof(Shared) + num_cores * (sizeof(Core) + 2 * sizeof(Seat));
}

CoreShare::CoreShare(CoreShareOptions options)
    : num_cores_(options.num_cores),
      options_(std::move(options)),
      own_memory_(options_.memory == nullptr ? shared_bytes(num_cores_) : 0, "the cores' shares"),
      shared_(reinterpret_cast<Shared*>(options_.memory == nullptr ? own_memory_.data()
                                                                   : options_.memory)),
      cores_(reinterpret_cast<Core*>(shared_ + 1)),
      seats_(reinterpret_cast<Seat*>(cores_ + num_cores_)) {
  WEFT_ASSERT((options_.memory == nullptr) == (options_.role == CoreShareRole::kWhole));
  if (num_cores_ == 0) fail(ErrorKind::kInvalidInput, "phases need at least 1 core to share");
  if (options_.slice.count() <= 0)
    fail(ErrorKind::kInvalidInput, "a slice of {} ns; it must be positive", options_.slice.count());
  if (options_.pin) cpus_ = allowed_cpus();
  if (cpus_.size() < num_cores_) cpus_.clear();
  if (options_.role == CoreShareRole::kWhole || options_.role == CoreShareRole::kFront) set_up();
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
    crews_[static_cast<size_t>(phase)] = std::make_unique<PhaseCrew>(*this, phase);
  if (options_.role == CoreShareRole::kWhole || options_.role == CoreShareRole::kPrefill)
    crew(Phase::kPrefill).start();
  if (options_.role == CoreShareRole::kWhole || options_.role == CoreShareRole::kDecode)
    crew(Phase::kDecode).start();
}

void CoreShare::set_up() {
  new (shared_) Shared;
  std::uninitialized_default_construct_n(cores_, num_cores_);
  std::uninitialized_default_construct_n(seats_, 2 * num_cores_);
  shared_->border.store({0, static_cast<uint32_t>(num_cores_)});
  for (size_t core = 0; core < num_cores_; ++core)
    cores_[core].last.store(core == 0 ? 0 : 1, std::memory_order_relaxed);
  shared_->partition = {.prefill_cores = std::max<size_t>(1, num_cores_ / 2),
                        .decode_cores = (num_cores_ + 1) / 2};
  shared_->balance_ns = -static_cast<double>(options_.slice.count());  // decode first
}

CoreShare::~CoreShare() {
  if (options_.role == CoreShareRole::kWhole || options_.role == CoreShareRole::kFront)
    WEFT_ASSERT(!shared_->running[0] && !shared_->running[1]);
  stop_.store(true);
  for (auto& crew : crews_) crew.reset();
}

CoreSet CoreShare::cores(Phase phase) { return CoreSet(&crew(phase), num_cores_); }

void CoreShare::apply(const CorePartition& partition) {
  const size_t p = partition.prefill_cores, d = partition.decode_cores;
  if (p > num_cores_ || d > num_cores_)
    fail(ErrorKind::kInvalidInput, "{} cores for prefill and {} for decode, but there are {}", p, d,
         num_cores_);
  if ((p == 0 || d == 0) && !partition.lend)
    fail(ErrorKind::kInvalidInput, "no cores for {} and none are lent: it could never run",
         p == 0 ? "prefill" : "decode");
  const double duty = partition.prefill_duty.value_or(0);
  if (!(duty >= 0 && duty <= 1))
    fail(ErrorKind::kInvalidInput, "a duty of {} for prefill, expected 0 to 1", duty);
  const std::lock_guard lock(shared_->mutex);
  charge();
  shared_->partition = partition;
  choose_turn();
  draw_border();
}

CorePartition CoreShare::partition() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->partition;
}

bool CoreShare::settled() const {
  const Border border = shared_->border.load();
  for (size_t core = 0; core < num_cores_; ++core)
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      if ((cores_[core].holders.load() & bit(phase)) != 0 && !border.gives(phase, core))
        return false;
  return true;
}

void CoreShare::set_prefill_turn(std::chrono::nanoseconds turn) {
  const std::lock_guard lock(shared_->mutex);
  shared_->prefill_turn = turn;
}

void CoreShare::pin(std::thread::native_handle_type thread, size_t core) const {
  if (cpus_.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus_[core], &set);
  pthread_setaffinity_np(thread, sizeof set, &set);  // refused: the system places the thread
}

void CoreShare::pin_driver(Phase phase) const { pin(pthread_self(), home(phase)); }

// ---- who may use what: all under mutex_

bool CoreShare::takes_turns() const {
  return runs(Phase::kPrefill) && runs(Phase::kDecode) &&
         (shared_->partition.by_steps || shared_->partition.prefill_duty.has_value()) &&
         shared_->partition.prefill_cores + shared_->partition.decode_cores > num_cores_;
}

// A token bucket: while both want the common cores, prefill earns `duty` of the time that passes
// and pays for the time it has them. Time in which one phase ran alone is lent, not counted.
void CoreShare::charge() {
  const auto now = options_.now ? options_.now() : steady_now();
  const auto passed = static_cast<double>((now - shared_->charged_until).count());
  shared_->charged_until = now;
  if (!takes_turns() || shared_->partition.by_steps || !(passed > 0)) return;
  const double duty = *shared_->partition.prefill_duty,
               slice = static_cast<double>(options_.slice.count());
  shared_->balance_ns += passed * (shared_->turn == Phase::kPrefill ? duty - 1 : duty);
  shared_->balance_ns = std::clamp(shared_->balance_ns, -slice, slice);
}

void CoreShare::choose_turn() {
  const double slice = static_cast<double>(options_.slice.count());
  if (runs(Phase::kPrefill) != runs(Phase::kDecode)) {
    shared_->turn = runs(Phase::kPrefill) ? Phase::kPrefill : Phase::kDecode;
    shared_->turn_began =
        shared_->charged_until - shared_->prefill_turn;  // whoever else comes has waited enough
  } else if (shared_->partition.by_steps) {
    const auto had = shared_->charged_until - shared_->turn_began;  // negative: the clock jumped
    if (shared_->turn == Phase::kPrefill && (had >= shared_->prefill_turn || had.count() < 0))
      shared_->turn = Phase::kDecode;
  } else if (shared_->turn == Phase::kPrefill && shared_->balance_ns <= -slice) {
    shared_->turn = Phase::kDecode;
  } else if (shared_->turn == Phase::kDecode && shared_->balance_ns >= slice) {
    shared_->turn = Phase::kPrefill;
  }
}

void CoreShare::draw_border() {
  const auto end = static_cast<uint32_t>(num_cores_);
  const auto prefill_end = static_cast<uint32_t>(shared_->partition.prefill_cores);
  const auto decode_begin = static_cast<uint32_t>(num_cores_ - shared_->partition.decode_cores);
  const bool prefill = runs(Phase::kPrefill), decode = runs(Phase::kDecode);
  Border border{prefill_end, decode_begin};  // apart, or both at once on what is common
  if (takes_turns()) {
    const uint32_t at = shared_->turn == Phase::kPrefill ? prefill_end : decode_begin;
    border = {at, at};
  } else if (!prefill || !decode) {
    border.prefill_end = !prefill ? 0 : shared_->partition.lend ? end : prefill_end;
    border.decode_begin = !decode ? end : shared_->partition.lend ? 0 : decode_begin;
  }
  shared_->taking_turns.store(takes_turns(), std::memory_order_relaxed);
  const Border before = shared_->border.exchange(border);
  for (size_t core = 0; core < num_cores_; ++core)
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      if (border.gives(phase, core) && !before.gives(phase, core)) invite(phase, core);
}

void CoreShare::enter(Phase phase) {
  {
    const std::lock_guard lock(shared_->mutex);
    WEFT_ASSERT(!runs(phase));  // one driver at a time
    charge();
    shared_->running[static_cast<size_t>(phase)] = true;
    choose_turn();
    draw_border();
  }
  hold(phase, home(phase));
}

void CoreShare::leave(Phase phase) {
  {
    const std::lock_guard lock(shared_->mutex);
    charge();
    shared_->running[static_cast<size_t>(phase)] = false;
    choose_turn();
    draw_border();
  }
  let_go(phase, home(phase));
}

// The driver of the phase whose turn it is runs, so one of the two drivers always looks.
void CoreShare::watch_duty() {
  if (!shared_->taking_turns.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(shared_->mutex);
  charge();
  const Phase before = shared_->turn;
  choose_turn();
  if (shared_->turn != before) draw_border();
}

void CoreShare::offer_turn(Phase phase) {
  {
    const std::lock_guard lock(shared_->mutex);
    charge();
    if (takes_turns() && shared_->turn == phase) {
      // Worth it if the other's turn would last a quarter of a slice before it has to give back.
      const double slice = static_cast<double>(options_.slice.count());
      const double duty = shared_->partition.prefill_duty.value_or(0);
      const bool due = shared_->partition.by_steps ? true
                       : phase == Phase::kDecode
                           ? shared_->balance_ns + slice >= (1 - duty) * slice / 4
                           : slice - shared_->balance_ns >= duty * slice / 4;
      if (due) {
        shared_->turn = other(phase);
        shared_->turn_began = shared_->charged_until;
        draw_border();
      }
    }
  }
  if (!gives(phase, home(phase))) retake(phase);
}

// ---- holding cores: lock-free

bool CoreShare::try_hold(Phase phase, size_t core) {
  const Border border = shared_->border.load();
  if (!border.gives(phase, core)) return false;
  Core& c = cores_[core];
  if (border.gives(other(phase), core)) {
    c.holders.fetch_or(bit(phase));
  } else {
    uint32_t nobody = 0;
    if (!c.holders.compare_exchange_strong(nobody, bit(phase))) return false;
  }
  const auto self = static_cast<uint8_t>(phase);
  if (c.last.load(std::memory_order_relaxed) != self) {
    c.last.store(self, std::memory_order_relaxed);
    shared_->core_moves.fetch_add(1, std::memory_order_relaxed);
  }
  return true;
}

// Never spins: the other phase's thread of this core may be computing on it.
void CoreShare::hold(Phase phase, size_t core) {
  SharedSignal& signal = this->signal(phase, core);
  while (true) {
    const uint32_t seen = signal.load();
    if (try_hold(phase, core)) return;
    signal.wait(seen, std::chrono::milliseconds(200));
    if (options_.beat != nullptr) options_.beat->fetch_add(1, std::memory_order_relaxed);
  }
}

void CoreShare::let_go(Phase phase, size_t core) {
  cores_[core].holders.fetch_and(~bit(phase));
  if (gives(other(phase), core)) invite(other(phase), core);
}

// Wakes the phase's thread of this core if it could do something there.
void CoreShare::invite(Phase phase, size_t core) {
  if ((cores_[core].holders.load() & bit(other(phase))) != 0 && !gives(other(phase), core)) return;
  if (core == home(phase) || (gate(phase).load() & PhaseCrew::kOpen) != 0) wake(phase, core);
}

// ---- a phase's process has died

void CoreShare::evict(Phase phase) {
  gate(phase).store(0);
  for (size_t core = 0; core < num_cores_; ++core) {
    if (core == home(phase)) continue;  // the front's driver sleeps there, or holds it
    signal(phase, core).sleepers.store(0);
    let_go(phase, core);
  }
  // It may have died while it moved the border.
  const std::lock_guard lock(shared_->mutex);
  charge();
  choose_turn();
  draw_border();
}

void CoreShare::retake(Phase phase) {
  let_go(phase, home(phase));
  hold(phase, home(phase));
}

// ---- the threads of one phase

PhaseCrew::PhaseCrew(CoreShare& share, Phase phase)
    : share_(share), phase_(phase), home_(share.home(phase)), gate_(share.gate(phase)) {}

void PhaseCrew::start() {
  for (size_t core = 0; core < share_.size(); ++core) {
    if (core == home_) continue;
    threads_.emplace_back([this, core] { work(core); });
    share_.pin(threads_.back().native_handle(), core);
  }
}

PhaseCrew::~PhaseCrew() {
  if (threads_.empty()) return;
  for (size_t core = 0; core < share_.size(); ++core)
    if (core != home_) share_.wake(phase_, core);
  for (std::thread& thread : threads_) thread.join();
}

void PhaseCrew::work(size_t core) {
  uint32_t finished = 0;  // number of the last job that this worker saw without pieces
  while (true) {
    SharedSignal& signal = share_.signal(phase_, core);
    const uint32_t seen = signal.load();
    if (share_.stop_.load()) return;
    if (has_job(finished) && share_.try_hold(phase_, core)) {
      while (help(core, finished) && await_job(core, finished)) {
      }
      share_.let_go(phase_, core);
      continue;
    }
    signal.wait(seen);
  }
}

bool PhaseCrew::has_job(uint32_t finished) const {
  const uint32_t gate = gate_.load();
  return (gate & kOpen) != 0 && (gate & kNumber) != finished;
}

// False: the core went to the other phase.
bool PhaseCrew::help(size_t core, uint32_t& finished) {
  uint32_t gate = gate_.load();
  do {
    if ((gate & kOpen) == 0 || (gate & kNumber) == finished) return true;
  } while (!gate_.compare_exchange_weak(gate, gate + 1));
  const bool no_pieces_left = take_pieces(core);
  if (no_pieces_left) finished = gate & kNumber;
  const uint32_t left = gate_.fetch_sub(1) - 1;
  if ((left & (kOpen | kInside)) == 0)
    gate_.notify_one();  // the driver waits for this worker alone
  return no_pieces_left;
}

// Holding the core, waits a little for the next parallel_for.
bool PhaseCrew::await_job(size_t core, uint32_t finished) const {
  for (int spin = 0; spin < kSpinsBeforeSleep; ++spin) {
    if (!share_.gives(phase_, core)) return false;
    if (has_job(finished)) return true;
    pause_core();
  }
  return false;
}

// True: no pieces are left. False: the core went to the other phase.
bool PhaseCrew::take_pieces(size_t core) {
  while (true) {
    if (core == home_) share_.watch_duty();
    if (!share_.gives(phase_, core)) return false;
    const size_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= n_) return true;
    try {
      call_(context_, begin, begin + grain_ < n_ ? begin + grain_ : n_, core);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
      next_.store(n_, std::memory_order_relaxed);  // nobody need start another piece
      return true;
    }
  }
}

void PhaseCrew::run(size_t n, size_t grain, CoreSet::Call call, void* context) {
  // Written by this thread alone, so read without the mutex.
  WEFT_ASSERT(share_.shared_->running[static_cast<size_t>(phase_)]);
  call_ = call;
  context_ = context;
  n_ = n;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  const size_t pieces = (n + grain - 1) / grain;
  if (pieces > 1 && share_.size() > 1) {
    gate_.store(((gate_.load(std::memory_order_relaxed) + kNumberStep) & kNumber) | kOpen);
    size_t wanted = pieces - 1;
    for (size_t i = 1; i < share_.size() && wanted != 0; ++i) {
      const size_t core = home_ == 0 ? i : home_ - i;
      if (!share_.gives(phase_, core)) continue;  // invited when the border moves
      share_.wake(phase_, core);
      --wanted;
    }
  }
  while (!take_pieces(home_)) {
    share_.let_go(phase_, home_);
    share_.hold(phase_, home_);
  }
  uint32_t gate = gate_.fetch_and(~kOpen) & ~kOpen;
  for (int spin = 0; (gate & kInside) != 0; ++spin) {  // for at most one piece
    if (spin < kSpinsBeforeSleep) {
      pause_core();
    } else {
      gate_.wait(gate);
    }
    gate = gate_.load();
  }
  if (failed_.load(std::memory_order_relaxed))
    std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace weft
