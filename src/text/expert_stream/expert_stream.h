// Experts that do not fit into memory (Megrez2, arXiv 2507.17728, §streaming; docs/megrez2.md).
// Some slots hold the experts that were wanted last; the others are read when a layer wants them,
// by reader threads, and with pre-gated routing a whole layer before. The answers are bit for bit
// those of a model whose experts are all in memory.
//
// A slot is empty, loading, come (read, and not yet checked), being checked, ready or failed.
// Readers do nothing but read, since each moment of theirs is taken from a core that computes: the
// pass that first computes with an expert checks it, on its own cores and while it comes into their
// caches anyway. A slot is held by the passes that wait for or compute with it, and only a slot
// that is not being read and that nobody holds gives its place to another expert. A pass computes
// with what has come before it waits for more, and what it expects takes slots only while nobody
// waits for one: so passes in several threads cannot wait for each other.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "models/expert_store.h"
#include "text/expert_stream/expert_cache.h"
#include "text/expert_stream/record_source.h"

namespace weft::text {

struct ExpertCounters {
  uint64_t hits = 0;    // wanted by a layer, and in a slot when it was first asked for
  uint64_t misses = 0;  // had to be read,
  uint64_t late = 0;    // and of those, had not come when the layer needed it
  uint64_t bytes_read = 0, failures = 0;
  double stall_s = 0;  // forward passes waited

  double hit_rate() const {
    return hits + misses == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(hits + misses);
  }
  ExpertCounters operator-(const ExpertCounters& before) const;
};

struct ExpertStreamOptions {
  size_t num_slots = 0;  // 1 or more
  ExpertPolicy policy = ExpertPolicy::kExpected;
  bool prefetch = true;  // reads begin when a pre-gate tells, else when the layer itself asks
  size_t num_readers = 2;
  std::chrono::seconds patience{120};  // for one expert; then kTimeout
  // Called for each layer of each pass (a trace), from the pass's thread.
  std::function<void(size_t layer, std::span<const uint32_t> experts)> on_visit = {};
};

class ExpertStream final : public models::ExpertStore {
 public:
  ExpertStream(const models::ExpertTable& table, RecordTable records,
               std::unique_ptr<RecordSource> source, ExpertStreamOptions options);
  ~ExpertStream() override;

  std::unique_ptr<models::ExpertPass> make_pass() override;
  size_t memory_bytes() const override { return arena_.bytes(); }
  size_t num_slots() const { return slots_.size(); }
  size_t num_experts() const { return shape_.num_experts(); }
  const ExpertCacheShape& shape() const { return shape_; }
  std::string describe() const;  // one line: slots, where they are read from, policy
  ExpertCounters counters() const;

 private:
  class Pass;
  enum class State : uint8_t { kEmpty, kLoading, kCome, kChecking, kReady, kFailed };
  struct Slot {
    State state = State::kEmpty;
    bool again = false;               // it came damaged, and is read a second time
    size_t holds = 0;                 // wants of passes
    const uint8_t* record = nullptr;  // once come; in the slot, or of the source's own
    models::Mlp mlp;                  // over it
    std::optional<Error> error;
  };
  // One expert that a pass wants.
  struct Want {
    uint32_t expert = 0;
    size_t layer = 0, key = 0;
    std::optional<size_t> slot;  // which it holds
    bool needed = false;         // by the layer that is being computed, not by the next
    bool given = false;
  };
  struct Job {
    size_t slot = 0, key = 0;
    uint64_t order = 0;
  };

  // All with mutex_ held.
  void want(Want& want);
  bool hold_or_place(Want& want);
  void release(Want& want);
  void fill_slots();
  void tell_passes();  // that something has come, or a slot was found
  void add_job(size_t slot, size_t key);
  Job take_job();

  bool may_go(const Slot& slot) const {
    return slot.holds == 0 && (slot.state == State::kReady || slot.state == State::kCome);
  }
  void checked(size_t slot, std::optional<Error> error);

  void read_records();  // a reader thread

  // Holds mutex_. Readers hear of new jobs when it is let go: one that is woken while it is held
  // goes to sleep on it at once, and is woken a second time, each time on a core that computes.
  class Locked;
  void unlock(std::unique_lock<std::mutex>& lock);

  const ExpertCacheShape shape_;
  const RecordTable records_;
  const std::unique_ptr<RecordSource> source_;
  const ExpertStreamOptions options_;
  const size_t slot_bytes_;
  Buffer arena_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable come_, to_read_;
  ExpertCache cache_;
  std::vector<Slot> slots_;
  std::vector<uint8_t> may_go_;  // by slot: read, and held by nobody
  std::list<Want*> waiting_;     // for a slot, in the order of asking
  std::deque<Job> jobs_;
  size_t num_unheard_jobs_ = 0;
  std::vector<size_t> needs_;  // by slot: wants of layers that are being computed
  uint64_t next_order_ = 0;
  ExpertCounters counters_;
  bool closing_ = false;
  std::atomic<uint64_t> changes_{0};  // that come_ tells of, also to those who wait awake

  std::vector<std::thread> readers_;
};

}  // namespace weft::text
