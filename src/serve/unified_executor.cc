#include "serve/unified_executor.h"

#include <condition_variable>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "base/seconds.h"
#include "serve/batch.h"
#include "serve/chunk_bound.h"

namespace weft::serve {
namespace {

class UnifiedExecutor final : public PhaseExecutor {
 public:
  UnifiedExecutor(std::unique_ptr<text::Decoder> decoder, const formats::Tokenizer& end_tokens,
                  const UnifiedOptions& options, CoreSet cores, std::shared_ptr<Turns> turns)
      : options_(options),
        cores_(cores),
        turns_(std::move(turns)),
        chunk_bound_(options_.chunk_tokens, options_.max_stall_s),
        batch_(std::move(decoder), end_tokens, metrics_, options.order),
        free_tokens_(batch_.decoder().free_tokens()),
        capacity_tokens_(free_tokens_),
        thread_([this] { run(); }) {}

  ~UnifiedExecutor() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_came_.notify_one();
    thread_.join();
  }

  const char* name() const override { return "unified"; }

  void submit(std::shared_ptr<Job> job) override {
    {
      const std::lock_guard lock(mutex_);
      check_queue(arrived_.size() + num_waiting_, options_.max_queued, metrics_);
      arrived_.push_back(std::move(job));
    }
    work_came_.notify_one();
  }

  void wake() override {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    work_came_.notify_one();
  }

  ExecutorState state() const override {
    const std::lock_guard lock(mutex_);
    return {.queued = arrived_.size() + num_waiting_,
            .running = num_running_,
            .capacity_tokens = capacity_tokens_,
            .free_tokens = free_tokens_,
            .kv = kv_};
  }

  const Metrics& metrics() const override { return metrics_; }

  void compute(const std::function<void(const CoreSet&)>& work) override {
    const std::lock_guard turn(*turns_);
    work(cores_);
  }

 private:
  void run();
  bool wait_for_work();
  void admit();
  text::Decoder::StepPlan plan() const;
  void step();
  void publish();

  const UnifiedOptions options_;
  const CoreSet cores_;
  std::shared_ptr<Turns> turns_;
  Metrics metrics_;
  // Of the loop's thread alone.
  ChunkBound chunk_bound_;
  Batch batch_;
  std::deque<RunningJob> waiting_;  // first come, first served; preempted ones in front

  mutable std::mutex mutex_;  // guards the rest but the thread
  std::condition_variable work_came_;
  std::vector<std::shared_ptr<Job>> arrived_;
  bool stopping_ = false, woken_ = false;
  size_t num_waiting_ = 0, num_running_ = 0, free_tokens_ = 0, capacity_tokens_ = 0;
  text::KvUsage kv_;

  std::thread thread_;  // the last member: it uses all others
};

void UnifiedExecutor::run() {
  while (wait_for_work()) {
    drop_cancelled(waiting_, metrics_);
    batch_.drop_cancelled();
    admit();
    if (!batch_.empty()) step();
    publish();
  }
  batch_.cancel_all();
  for (RunningJob& job : waiting_) job.end(metrics_, text::FinishReason::kCancelled);
}

// Takes what has arrived. False: the executor ends.
bool UnifiedExecutor::wait_for_work() {
  std::unique_lock lock(mutex_);
  if (batch_.empty() && waiting_.empty())
    work_came_.wait(lock, [this] { return stopping_ || woken_ || !arrived_.empty(); });
  woken_ = false;
  for (auto& job : arrived_) waiting_.emplace_back(std::move(job));
  arrived_.clear();
  num_waiting_ = waiting_.size();
  return !stopping_;
}

void UnifiedExecutor::admit() {
  while (!waiting_.empty() && batch_.size() < options_.max_running) {
    const RunningJob& next = waiting_.front();
    if (!batch_.empty()) {
      const size_t needed = batch_.tokens_spoken_for() + batch_.room_for(next);
      if (needed > batch_.decoder().free_tokens() + batch_.decoder().reclaimable_tokens() || batch_.reads_prompt_of(next)) return;
    }
    RunningJob job = std::move(waiting_.front());
    waiting_.pop_front();
    batch_.start(std::move(job));
  }
}

text::Decoder::StepPlan UnifiedExecutor::plan() const {
  const bool prompts = batch_.any_prompt(), answers = batch_.any_answer();
  text::Decoder::StepPlan plan{.max_prompt_tokens = chunk_bound_.tokens(answers)};
  if (options_.policy == UnifiedPolicy::kPrefillFirst) plan.advance_answers = !prompts;
  if (options_.policy == UnifiedPolicy::kDecodeFirst) plan.advance_prompts = !answers;
  return plan;
}

void UnifiedExecutor::step() {
  std::optional<Batch::StepDone> done;
  {
    const std::lock_guard turn(*turns_);
    const Clock::time_point start = Clock::now();
    try {
      done = batch_.step(plan());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kPeerLost && error.kind() != ErrorKind::kTimeout) throw;
      batch_.fail_all(error);
      for (RunningJob& job : waiting_) job.fail(metrics_, error);
      waiting_.clear();
      if (options_.on_lost) options_.on_lost(error);
      return;
    }
    if (done) chunk_bound_.measured(done->prompt_tokens, seconds_since(start));
  }
  if (done) return;
  // The cache is full: the youngest gives up its room, and will be read again, its answer so far
  // included. Nobody notices but by the pause.
  RunningJob job = batch_.preempt_youngest();
  if (batch_.empty())
    job.fail_for_room(metrics_);
  else
    waiting_.push_front(std::move(job).preempted(metrics_));
}

void UnifiedExecutor::publish() {
  const size_t free_tokens = batch_.decoder().free_tokens();
  const text::KvUsage kv = batch_.decoder().kv_usage();
  const std::lock_guard lock(mutex_);
  num_waiting_ = waiting_.size();
  num_running_ = batch_.size();
  free_tokens_ = free_tokens;
  kv_ = kv;
}

}  // namespace

std::unique_ptr<PhaseExecutor> make_unified_executor(std::unique_ptr<text::Decoder> decoder,
                                                     const formats::Tokenizer& end_tokens,
                                                     const UnifiedOptions& options, CoreSet cores,
                                                     std::shared_ptr<Turns> turns) {
  return std::make_unique<UnifiedExecutor>(std::move(decoder), end_tokens, options, cores,
                                           std::move(turns));
}

}  // namespace weft::serve
