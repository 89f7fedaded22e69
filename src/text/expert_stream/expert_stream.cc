#include "text/expert_stream/expert_stream.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/seconds.h"
#include "base/spin.h"
#include "models/computing_pass.h"

namespace weft::text {

using models::ExpertPass;
using Clock = std::chrono::steady_clock;

namespace {

// A read of an expert takes about as long; a core that sleeps takes 50 us to wake (a virtual Xeon,
// November 2026), and a token may wait ten times.
constexpr std::chrono::microseconds kWatch{1000};

// A reader computes for some microseconds and sleeps again, but all cores compute when it wakes.
// Linux from 6.12 on puts a thread with a short slice before one with a longer: the worst of 300
// wake-ups beside two busy threads took 1.8 ms instead of 19 (a virtual Xeon, November 2026; their
// median is 30 us either way). Others take no notice.
void ask_for_short_slices() {
  struct {                           // sched_attr
    uint32_t size = 56, policy = 0;  // SCHED_OTHER
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime_ns = 100'000, deadline_ns = 0, period_ns = 0;
    uint32_t util_min = 0, util_max = 0;
  } attributes;
  attributes.nice = ::getpriority(PRIO_PROCESS, 0);
  static_cast<void>(::syscall(SYS_sched_setattr, 0, &attributes, 0));
}

}  // namespace

ExpertCounters ExpertCounters::operator-(const ExpertCounters& before) const {
  return {.hits = hits - before.hits,
          .misses = misses - before.misses,
          .late = late - before.late,
          .bytes_read = bytes_read - before.bytes_read,
          .failures = failures - before.failures,
          .stall_s = stall_s - before.stall_s};
}

class ExpertStream::Locked {
 public:
  explicit Locked(ExpertStream& stream) : stream_(stream), lock_(stream.mutex_) {}
  ~Locked() {
    if (lock_.owns_lock()) stream_.unlock(lock_);
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  std::unique_lock<std::mutex>& lock() { return lock_; }

 private:
  ExpertStream& stream_;
  std::unique_lock<std::mutex> lock_;
};

// The wants of a pass: of the layer it computes, and of the one after.
class ExpertStream::Pass final : public models::ComputingPass {
 public:
  explicit Pass(ExpertStream& stream) : stream_(stream) {}
  ~Pass() override { end(); }

  void expect(size_t layer, std::span<const uint32_t> experts) override;
  void visit(size_t layer, std::span<const uint32_t> experts) override;
  std::span<const Arrival> next(Wait wait) override;
  void end() noexcept override;
  void lend(const CoreSet& cores) override { cores_ = cores; }

 private:
  void ask(std::vector<Want>& wants, size_t layer, std::span<const uint32_t> experts, bool needed);
  void drop(std::vector<Want>& wants);
  bool is_expected(size_t layer, std::span<const uint32_t> experts) const;
  size_t gather();  // holding_ and unchecked_ from what has come and was not given
  void check(std::unique_lock<std::mutex>& lock);
  bool watch(std::unique_lock<std::mutex>& lock);

  ExpertStream& stream_;
  CoreSet cores_;                             // lent; else the calling thread alone
  std::vector<Want> current_, next_, later_;  // of the layer that is visited, and of two to come
  size_t num_given_ = 0;
  std::array<Want*, kMost> holding_{};  // what the last next() gave
  size_t num_holding_ = 0;
  struct Unchecked {
    const Want* want = nullptr;
    const uint8_t* record = nullptr;
    std::array<std::optional<Error>, 2> wrong;  // in its halves
  };
  std::array<Unchecked, kMost> unchecked_;
  size_t num_unchecked_ = 0;
  std::array<Arrival, kMost> arrivals_;
};

void ExpertStream::Pass::ask(std::vector<Want>& wants, size_t layer,
                             std::span<const uint32_t> experts, bool needed) {
  wants.clear();
  wants.reserve(experts.size());  // their addresses are kept
  stream_.cache_.begin_layer(layer);
  for (const uint32_t expert : experts) {
    wants.push_back({.expert = expert,
                     .layer = layer,
                     .key = stream_.shape_.key(layer, expert),
                     .slot = std::nullopt,
                     .needed = needed});
    stream_.want(wants.back());
  }
}

void ExpertStream::Pass::expect(size_t layer, std::span<const uint32_t> experts) {
  if (!stream_.options_.prefetch) return;
  const Locked locked(stream_);
  // A gate tells of the layer after before the layer that it has told of is visited.
  std::vector<Want>& wants = next_.empty() ? next_ : later_;
  drop(wants);
  ask(wants, layer, experts, false);
}

bool ExpertStream::Pass::is_expected(size_t layer, std::span<const uint32_t> experts) const {
  return next_.size() == experts.size() && !next_.empty() && next_.front().layer == layer &&
         std::equal(experts.begin(), experts.end(), next_.begin(),
                    [](uint32_t expert, const Want& want) { return want.expert == expert; });
}

void ExpertStream::Pass::visit(size_t layer, std::span<const uint32_t> experts) {
  if (stream_.options_.on_visit) stream_.options_.on_visit(layer, experts);
  const Locked locked(stream_);
  drop(current_);
  num_holding_ = num_given_ = 0;
  if (is_expected(layer, experts)) {
    std::swap(current_, next_);  // keeps the wants' addresses
    std::swap(next_, later_);
    for (Want& want : current_) {
      want.needed = true;
      if (want.slot) ++stream_.needs_[*want.slot];
      const bool here = want.slot && stream_.slots_[*want.slot].state != State::kLoading;
      if (!here) ++stream_.counters_.late;
    }
    stream_.fill_slots();
  } else {
    drop(next_);
    drop(later_);
    const uint64_t misses = stream_.counters_.misses;
    ask(current_, layer, experts, true);
    stream_.counters_.late += stream_.counters_.misses - misses;
    stream_.fill_slots();  // what this layer waits for outranks what others expect
  }
}

// What is ready, and what has come and nobody checks yet: that is for this pass to check.
size_t ExpertStream::Pass::gather() {
  num_holding_ = num_unchecked_ = 0;
  for (Want& want : current_) {
    if (num_holding_ == kMost) break;
    if (want.given || !want.slot) continue;
    Slot& slot = stream_.slots_[*want.slot];
    if (slot.state == State::kLoading || slot.state == State::kChecking) continue;
    if (slot.state == State::kCome) {
      slot.state = State::kChecking;
      unchecked_[num_unchecked_++] = {&want, slot.record, {}};
    }
    holding_[num_holding_++] = &want;
  }
  return num_holding_;
}

// Both halves of each, on two cores. `lock` is let go meanwhile.
void ExpertStream::Pass::check(std::unique_lock<std::mutex>& lock) {
  if (num_unchecked_ == 0) return;
  stream_.unlock(lock);
  cores_.parallel_for(2 * num_unchecked_, 1, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) {
      Unchecked& come = unchecked_[i / 2];
      const size_t group = come.want->key / stream_.shape_.experts_per_group;
      come.wrong[i % 2] = stream_.source_->check(group, come.want->expert, come.record, i % 2);
    }
  });
  lock.lock();
  for (Unchecked& come : std::span(unchecked_).first(num_unchecked_))
    stream_.checked(*come.want->slot,
                    come.wrong[0] ? std::move(come.wrong[0]) : std::move(come.wrong[1]));
  // What came damaged is being read again, and is given later.
  const auto end = std::remove_if(
      holding_.begin(), holding_.begin() + static_cast<ptrdiff_t>(num_holding_),
      [this](const Want* want) { return stream_.slots_[*want->slot].state == State::kLoading; });
  num_holding_ = static_cast<size_t>(end - holding_.begin());
}

// Waits awake for a moment; `lock` is let go meanwhile. False: nothing has come.
bool ExpertStream::Pass::watch(std::unique_lock<std::mutex>& lock) {
  const Clock::time_point end = Clock::now() + kWatch;
  do {
    const uint64_t seen = stream_.changes_.load(std::memory_order_relaxed);
    stream_.unlock(lock);
    while (stream_.changes_.load(std::memory_order_acquire) == seen && Clock::now() < end) {
      for (int spin = 0; spin < 16; ++spin) pause_core();
      std::this_thread::yield();  // a reader may need this very core
    }
    lock.lock();
    if (gather() != 0) return true;
  } while (Clock::now() < end);
  return false;
}

std::span<const ExpertPass::Arrival> ExpertStream::Pass::next(Wait wait) {
  Locked locked(stream_);
  std::unique_lock<std::mutex>& lock = locked.lock();
  for (size_t i = 0; i < num_holding_; ++i) stream_.release(*holding_[i]);
  if (num_holding_ != 0) stream_.fill_slots();
  for (num_holding_ = 0; num_holding_ == 0 && num_given_ != current_.size(); check(lock)) {
    if (gather() != 0) continue;
    if (wait == Wait::kNo) break;
    const Clock::time_point begin = Clock::now();
    bool came = watch(lock);
    if (!came)
      came =
          stream_.come_.wait_for(lock, stream_.options_.patience, [this] { return gather() != 0; });
    stream_.counters_.stall_s += seconds_since(begin);
    if (!came)
      fail(ErrorKind::kTimeout, "waited {} s for an expert of layer {} from {}",
           stream_.options_.patience.count(), current_.front().layer, stream_.source_->describe());
  }
  for (size_t i = 0; i < num_holding_; ++i) {
    Want& want = *holding_[i];
    const Slot& slot = stream_.slots_[*want.slot];
    want.given = true;
    const bool ready = slot.state == State::kReady;
    arrivals_[i] = {.expert = want.expert,
                    .mlp = ready ? &slot.mlp : nullptr,
                    .error = ready ? nullptr : &*slot.error};
  }
  num_given_ += num_holding_;
  return std::span(arrivals_).first(num_holding_);
}

void ExpertStream::Pass::drop(std::vector<Want>& wants) {
  for (Want& want : wants) stream_.release(want);
  wants.clear();
}

void ExpertStream::Pass::end() noexcept {
  const Locked locked(stream_);
  num_holding_ = num_given_ = 0;
  cores_ = CoreSet();
  drop(current_);
  drop(next_);
  drop(later_);
  stream_.fill_slots();
}

ExpertStream::ExpertStream(const models::ExpertTable& table, RecordTable records,
                           std::unique_ptr<RecordSource> source, ExpertStreamOptions options)
    : shape_{table.num_layers, table.layers_per_group, table.num_groups, table.experts_per_group},
      records_(std::move(records)),
      source_(std::move(source)),
      options_(std::move(options)),
      slot_bytes_(records_.largest_bytes),
      arena_(std::min(options_.num_slots, shape_.num_experts()) * slot_bytes_, "slots for experts"),
      cache_(shape_, std::min(options_.num_slots, shape_.num_experts()), options_.policy),
      slots_(cache_.num_slots()),
      may_go_(cache_.num_slots(), 0),
      needs_(cache_.num_slots(), 0) {
  WEFT_ASSERT(options_.num_readers != 0);
  for (size_t i = 0; i < options_.num_readers; ++i)
    readers_.emplace_back([this] { read_records(); });
}

ExpertStream::~ExpertStream() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  to_read_.notify_all();
  for (std::thread& reader : readers_) reader.join();
}

std::unique_ptr<ExpertPass> ExpertStream::make_pass() { return std::make_unique<Pass>(*this); }

ExpertCounters ExpertStream::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

std::string ExpertStream::describe() const {
  return fmt::format("{} of {} experts in memory, read from {}; policy {}{}", num_slots(),
                     num_experts(), source_->describe(), name(options_.policy),
                     options_.prefetch ? "" : ", on demand");
}

// The first time that a pass asks for an expert.
void ExpertStream::want(Want& want) {
  cache_.use(want.key, want.layer);
  const bool hit = cache_.slot_of(want.key).has_value();
  ++(hit ? counters_.hits : counters_.misses);
  // What is expected must not hold a slot, not even its own, that a layer may be waiting for; what
  // a layer needs and has is computed with, and lets go, soon.
  const bool in_turn = waiting_.empty() || (hit && want.needed);
  if (!in_turn || !hold_or_place(want)) waiting_.push_back(&want);
}

// False: there is no slot to be had.
bool ExpertStream::hold_or_place(Want& want) {
  std::optional<size_t> at = cache_.slot_of(want.key);
  if (!at) {
    at = cache_.place(want.key, want.layer, may_go_);
    if (!at) return false;
    Slot& slot = slots_[*at];
    WEFT_ASSERT(slot.holds == 0 && slot.state != State::kLoading && slot.state != State::kChecking);
    slot.state = State::kLoading;
    slot.again = false;
    slot.error.reset();
    add_job(*at, want.key);
  }
  want.slot = at;
  ++slots_[*at].holds;
  if (want.needed) ++needs_[*at];
  may_go_[*at] = 0;
  return true;
}

void ExpertStream::release(Want& want) {
  if (!want.slot) {
    waiting_.remove(&want);
    return;
  }
  const size_t at = *std::exchange(want.slot, std::nullopt);
  Slot& slot = slots_[at];
  if (want.needed) --needs_[at];
  if (--slot.holds != 0) return;
  may_go_[at] = may_go(slot) ? 1 : 0;
  if (slot.state == State::kFailed) {
    slot.state = State::kEmpty;
    cache_.forget(at);
  }
}

void ExpertStream::tell_passes() {
  changes_.fetch_add(1, std::memory_order_release);
  come_.notify_all();
}

// Gives free slots to those who wait: first for layers that are being computed, then, when none of
// those waits any more, for what is expected.
void ExpertStream::fill_slots() {
  for (const bool needed : {true, false})
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      if ((*it)->needed != needed) {
        ++it;
        continue;
      }
      if (!hold_or_place(**it)) return;
      it = waiting_.erase(it);
      tell_passes();  // it may be one that is ready already
    }
}

void ExpertStream::add_job(size_t slot, size_t key) {
  jobs_.push_back({slot, key, next_order_++});
  ++num_unheard_jobs_;
}

void ExpertStream::unlock(std::unique_lock<std::mutex>& lock) {
  const size_t woken = std::min(std::exchange(num_unheard_jobs_, 0), options_.num_readers);
  lock.unlock();
  for (size_t i = 0; i < woken; ++i) to_read_.notify_one();
}

// The oldest that a layer waits for, else the oldest.
ExpertStream::Job ExpertStream::take_job() {
  auto best = jobs_.begin();
  for (auto it = jobs_.begin(); it != jobs_.end(); ++it) {
    const bool first = needs_[it->slot] != 0, best_first = needs_[best->slot] != 0;
    if (first != best_first ? first : it->order < best->order) best = it;
  }
  const Job job = *best;
  jobs_.erase(best);
  return job;
}

// By the pass that holds it. What is damaged is read once more: the disk may have erred, not the
// file.
void ExpertStream::checked(size_t at, std::optional<Error> error) {
  Slot& slot = slots_[at];
  WEFT_ASSERT(slot.state == State::kChecking && slot.holds != 0);
  if (error && !std::exchange(slot.again, true)) {
    slot.state = State::kLoading;
    add_job(at, *cache_.key_in(at));
    return;
  }
  if (error) ++counters_.failures;
  slot.state = error ? State::kFailed : State::kReady;
  slot.error = std::move(error);
  tell_passes();  // another pass may wait for the same
}

void ExpertStream::read_records() {
  ask_for_short_slices();
  std::unique_lock lock(mutex_);
  while (true) {
    to_read_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
    if (closing_) return;
    const Job job = take_job();
    if (num_unheard_jobs_ != 0) --num_unheard_jobs_;
    const size_t group = job.key / shape_.experts_per_group;
    const size_t expert = job.key % shape_.experts_per_group;
    uint8_t* const record = arena_.data() + job.slot * slot_bytes_;
    unlock(lock);
    std::optional<Error> error;
    RecordSource::Record read;
    for (int attempt = 0; attempt < 2; ++attempt) {
      error.reset();
      try {
        read = source_->read(group, expert, record);
        break;
      } catch (const Error& caught) {
        error = caught;
      }
    }
    lock.lock();
    Slot& slot = slots_[job.slot];
    counters_.bytes_read += read.bytes_read;
    slot.state = error ? State::kFailed : State::kCome;
    slot.error = std::move(error);
    if (slot.state == State::kCome) {
      slot.record = read.at;
      slot.mlp = records_.layouts[group].expert_at(read.at);
    } else {
      ++counters_.failures;
    }
    if (slot.holds == 0) {  // whoever wanted it has gone
      if (slot.state == State::kFailed) {
        slot.state = State::kEmpty;
        cache_.forget(job.slot);
      } else {
        may_go_[job.slot] = 1;
      }
      fill_slots();
    }
    tell_passes();
  }
}

}  // namespace weft::text
