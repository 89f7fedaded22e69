#include "bench/split_executor.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/core_share.h"
#include "base/error.h"
#include "base/seconds.h"
#include "serve/semi_pd/loop.h"

namespace weft::bench {
namespace {

using serve::Clock;
using serve::Job;
using serve::RunningJob;
using serve::semi_pd::Loop;
using serve::semi_pd::Moving;

class Split final : public SplitExecutor {
 public:
  Split(const text::TextModel& model, const SplitOptions& options);
  ~Split() override;

  const char* name() const override { return "split"; }
  void submit(std::shared_ptr<Job> job) override;
  void wake() override;
  serve::ExecutorState state() const override;
  const serve::Metrics& metrics() const override { return metrics_; }
  void compute(const std::function<void(const CoreSet&)>&) override {
    fail(ErrorKind::kUnsupported, "the split baseline computes requests alone");
  }
  SplitCosts copied() const override {
    const std::lock_guard lock(mutex_);
    return copied_;
  }

 private:
  void run_prefill();
  bool wait_for_prompts();
  void admit();
  void step_prefill();
  void run_decode();
  bool wait_for_answers();
  void copy_those_that_fit();
  void step_decode();
  void changed();

  const SplitOptions options_;
  const size_t kv_bytes_per_token_;
  serve::Metrics metrics_;
  CoreShare share_;
  std::shared_ptr<text::KvPool> prefill_pool_, decode_pool_;
  Loop prefill_, decode_;           // each of its thread
  std::deque<RunningJob> waiting_;  // of the prefill thread
  uint64_t seen_ = 0;               // likewise: changes_, before its last step
  std::deque<Moving> arriving_;  // of the decode thread: their prompts are still in the other pool

  mutable std::mutex mutex_;  // guards the rest but the threads
  std::condition_variable changed_;
  bool stopping_ = false;
  uint64_t changes_ = 0;  // of room, requests and cancellations
  std::vector<std::shared_ptr<Job>> submitted_;
  std::vector<RunningJob> preempted_;
  std::vector<Moving> to_decode_;
  size_t num_waiting_ = 0, in_prefill_ = 0, in_decode_ = 0;  // in_decode_: on their way, too
  SplitCosts copied_;

  std::vector<std::thread> threads_;
};

Split::Split(const text::TextModel& model, const SplitOptions& options)
    : options_(options),
      kv_bytes_per_token_(model.memory_plan().kv_bytes / model.kv_room()),
      share_(CoreShareOptions{.num_cores = options.num_cores}),
      prefill_pool_(model.make_pool(options.kv_tokens / 2)),
      decode_pool_(model.make_pool(options.kv_tokens / 2)),
      prefill_(model, {.pool = prefill_pool_}, share_.cores(Phase::kPrefill), metrics_, {}),
      decode_(model, {.pool = decode_pool_}, share_.cores(Phase::kDecode), metrics_, {}) {
  const size_t half = options.num_cores / 2;
  share_.apply({.prefill_cores = half, .decode_cores = options.num_cores - half, .lend = false});
  for (const auto& pool : {prefill_pool_, decode_pool_}) pool->make_resident();
  threads_.emplace_back([this] { run_prefill(); });
  threads_.emplace_back([this] { run_decode(); });
}

Split::~Split() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed();
  for (std::thread& thread : threads_) thread.join();
  const auto end = [this](RunningJob& job) { job.end(metrics_, text::FinishReason::kCancelled); };
  for (RunningJob& job : waiting_) end(job);
  for (RunningJob& job : preempted_) end(job);
  for (Moving& moving : arriving_) end(moving.job);
  for (Moving& moving : to_decode_) end(moving.job);
  for (auto& job : submitted_)
    RunningJob(std::move(job)).end(metrics_, text::FinishReason::kCancelled);
}

void Split::changed() {
  {
    const std::lock_guard lock(mutex_);
    ++changes_;
  }
  changed_.notify_all();
}

void Split::submit(std::shared_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    metrics_.requests.fetch_add(1, std::memory_order_relaxed);
    submitted_.push_back(std::move(job));
  }
  changed();
}

void Split::wake() { changed(); }

serve::ExecutorState Split::state() const {
  const std::lock_guard lock(mutex_);
  return {.queued = submitted_.size() + num_waiting_,
          .running = in_prefill_ + in_decode_,
          .capacity_tokens = prefill_pool_->capacity_tokens() + decode_pool_->capacity_tokens(),
          .free_tokens = prefill_pool_->free_tokens() + decode_pool_->free_tokens()};
}

// ---- prefill

void Split::run_prefill() {
  share_.pin_driver(Phase::kPrefill);
  while (wait_for_prompts()) {
    drop_cancelled(waiting_, metrics_);
    prefill_.batch.drop_cancelled();
    admit();
    if (!prefill_.batch.empty()) step_prefill();
    const std::lock_guard lock(mutex_);
    num_waiting_ = waiting_.size();
    in_prefill_ = prefill_.batch.size();
  }
  prefill_.batch.cancel_all();
}

// Sleeps while there is nothing to read, or no room to read it into. False: the executor ends.
bool Split::wait_for_prompts() {
  std::unique_lock lock(mutex_);
  // Full of prompts that decode has no room for yet: until something has changed since the last
  // look.
  const bool stuck = prefill_.batch.empty() && !waiting_.empty();
  if (prefill_.batch.empty())
    changed_.wait(lock, [&] {
      return stopping_ || !submitted_.empty() || !preempted_.empty() ||
             (stuck && changes_ != seen_);
    });
  seen_ = changes_;
  for (RunningJob& job : preempted_) waiting_.push_front(std::move(job));
  for (auto& job : submitted_) waiting_.emplace_back(std::move(job));
  preempted_.clear();
  submitted_.clear();
  return !stopping_;
}

void Split::admit() {
  while (!waiting_.empty()) {
    {
      const std::lock_guard lock(mutex_);
      if (prefill_.batch.size() + in_decode_ >= options_.max_running) break;
    }
    const size_t needed =
        prefill_.batch.tokens_spoken_for() + prefill_.batch.room_for(waiting_.front());
    const bool alone = prefill_pool_->free_tokens() == prefill_pool_->capacity_tokens();
    if (!alone && needed > prefill_pool_->free_tokens()) break;
    RunningJob job = std::move(waiting_.front());
    waiting_.pop_front();
    prefill_.batch.start(std::move(job));
  }
}

void Split::step_prefill() {
  {
    const CoreShare::Running running(share_, Phase::kPrefill);
    if (!prefill_.batch.step(
            {.max_prompt_tokens = options_.chunk_tokens, .advance_answers = false})) {
      RunningJob job = prefill_.batch.preempt_youngest();
      // Not by what is free now: decode may have taken its prompts over since the step failed.
      if (prefill_.batch.room_for(job) > prefill_pool_->capacity_tokens())
        job.fail_for_room(metrics_);
      else
        waiting_.push_front(std::move(job).preempted(metrics_));
    }
  }
  std::vector<Moving> read = prefill_.detach_answers();
  if (read.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    in_decode_ += read.size();
    std::move(read.begin(), read.end(), std::back_inserter(to_decode_));
  }
  changed();
}

// ---- decode

void Split::run_decode() {
  share_.pin_driver(Phase::kDecode);
  while (wait_for_answers()) {
    copy_those_that_fit();
    decode_.batch.drop_cancelled();
    if (!decode_.batch.empty()) step_decode();
    const std::lock_guard lock(mutex_);
    const size_t in_decode = decode_.batch.size() + arriving_.size() + to_decode_.size();
    if (in_decode != in_decode_) {
      in_decode_ = in_decode;
      ++changes_;
      changed_.notify_all();
    }
  }
  decode_.batch.cancel_all();
}

bool Split::wait_for_answers() {
  std::unique_lock lock(mutex_);
  if (decode_.batch.empty())
    changed_.wait(lock, [&] { return stopping_ || !to_decode_.empty() || !arriving_.empty(); });
  for (Moving& moving : to_decode_) arriving_.push_back(std::move(moving));
  to_decode_.clear();
  return !stopping_;
}

// First come, first served, with a page left for each answer that runs.
void Split::copy_those_that_fit() {
  constexpr size_t kPage = kernels::kPageTokens;
  bool moved = false;
  while (!arriving_.empty()) {
    const size_t tokens = arriving_.front().job.prompt_size();
    // One that is alone may fill the pool to its last page: a preempted one has grown.
    const size_t spare = decode_.batch.empty() ? 0 : 1 + decode_.batch.size();
    const size_t needed = (tokens / kPage + 1 + spare) * kPage;
    if (needed > decode_pool_->free_tokens() && !decode_.batch.empty()) break;
    Moving moving = std::move(arriving_.front());
    arriving_.pop_front();
    moved = true;
    if (needed > decode_pool_->free_tokens()) {  // alone, and too long for half of the cache
      moving.job.fail_for_room(metrics_);
      continue;
    }
    const Clock::time_point start = Clock::now();
    decode_.attach(std::move(moving));
    const std::lock_guard lock(mutex_);
    ++copied_.requests;
    copied_.bytes += tokens * kv_bytes_per_token_;
    copied_.seconds += seconds_since(start);
  }
  if (moved) changed();
}

void Split::step_decode() {
  const CoreShare::Running running(share_, Phase::kDecode);
  if (decode_.batch.step({.advance_prompts = false})) return;
  RunningJob job = decode_.batch.preempt_youngest();
  if (decode_.batch.empty()) {
    job.fail_for_room(metrics_);
  } else {
    const std::lock_guard lock(mutex_);
    preempted_.push_back(std::move(job).preempted(metrics_));
  }
}

}  // namespace

std::unique_ptr<SplitExecutor> make_split_executor(const text::TextModel& model,
                                                   const SplitOptions& options) {
  WEFT_ASSERT(options.num_cores >= 2);
  return std::make_unique<Split>(model, options);
}

}  // namespace weft::bench
