#include "serve/unified_executor.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "serve/running_job.h"

namespace weft::serve {
namespace {

// How fast prompts were read lately while answers waited for it: bounds the piece that fits a stall.
class ChunkBound {
 public:
  explicit ChunkBound(const UnifiedOptions& options) : options_(options) {}

  size_t tokens(bool answers_wait) const {
    if (!options_.max_stall_s || !answers_wait) return options_.chunk_tokens;
    constexpr double kCautious = 32;  // tokens, until a step has been measured
    const double fit = seconds_per_token_ > 0
                           ? (*options_.max_stall_s - decode_seconds_) / seconds_per_token_
                           : kCautious;
    return static_cast<size_t>(
        std::clamp(fit, 1.0, static_cast<double>(options_.chunk_tokens)));
  }

  void measured(size_t prompt_tokens, double seconds) {
    constexpr double kWeight = 0.2;
    const auto blend = [](double old, double now) {
      return old > 0 ? old + kWeight * (now - old) : now;
    };
    if (prompt_tokens == 0)
      decode_seconds_ = blend(decode_seconds_, seconds);
    else
      seconds_per_token_ =
          blend(seconds_per_token_,
                std::max(seconds - decode_seconds_, 0.0) / static_cast<double>(prompt_tokens));
  }

 private:
  const UnifiedOptions& options_;
  double seconds_per_token_ = 0, decode_seconds_ = 0;
};

class UnifiedExecutor final : public PhaseExecutor {
 public:
  UnifiedExecutor(std::unique_ptr<text::Decoder> decoder, const formats::Tokenizer& end_tokens,
                  const UnifiedOptions& options, std::shared_ptr<Turns> turns)
      : decoder_(std::move(decoder)),
        end_tokens_(end_tokens),
        options_(options),
        turns_(std::move(turns)),
        chunk_bound_(options_),
        free_tokens_(decoder_->free_tokens()),
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
      if (arrived_.size() + num_waiting_ >= options_.max_queued) {
        metrics_.refused.fetch_add(1, std::memory_order_relaxed);
        fail(ErrorKind::kOutOfResources,
             "{} requests are waiting already, the most that are kept. Try again later.",
             options_.max_queued);
      }
      metrics_.requests.fetch_add(1, std::memory_order_relaxed);
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
            .free_tokens = free_tokens_};
  }

  const Metrics& metrics() const override { return metrics_; }

 private:
  void run();
  bool wait_for_work();
  void drop_cancelled();
  void admit();
  bool admit(RunningJob& job);
  size_t room() const;
  text::Decoder::StepPlan plan() const;
  void step();
  void preempt_youngest();
  void deliver(const text::DecodedToken& decoded);
  RunningJob& running(text::RequestId id);
  void forget(text::RequestId id);
  void publish();

  // Of the loop's thread alone.
  std::unique_ptr<text::Decoder> decoder_;
  const formats::Tokenizer& end_tokens_;
  const UnifiedOptions options_;
  std::shared_ptr<Turns> turns_;
  ChunkBound chunk_bound_;
  std::deque<RunningJob> waiting_;   // first come, first served; preempted ones in front
  std::vector<RunningJob> running_;  // in the order they were started

  Metrics metrics_;
  mutable std::mutex mutex_;  // guards the rest but the thread
  std::condition_variable work_came_;
  std::vector<std::shared_ptr<Job>> arrived_;
  bool stopping_ = false, woken_ = false;
  size_t num_waiting_ = 0, num_running_ = 0, free_tokens_ = 0, capacity_tokens_ = 0;

  std::thread thread_;  // the last member: it uses all others
};

void UnifiedExecutor::run() {
  while (wait_for_work()) {
    drop_cancelled();
    admit();
    if (!running_.empty()) step();
    publish();
  }
  for (RunningJob& job : running_) {
    decoder_->finish(job.id());
    job.end(metrics_, text::FinishReason::kCancelled);
  }
  for (RunningJob& job : waiting_) job.end(metrics_, text::FinishReason::kCancelled);
}

// Takes what has arrived. False: the executor ends.
bool UnifiedExecutor::wait_for_work() {
  std::unique_lock lock(mutex_);
  if (running_.empty() && waiting_.empty())
    work_came_.wait(lock, [this] { return stopping_ || woken_ || !arrived_.empty(); });
  woken_ = false;
  for (auto& job : arrived_) waiting_.emplace_back(std::move(job));
  arrived_.clear();
  num_waiting_ = waiting_.size();
  return !stopping_;
}

void UnifiedExecutor::drop_cancelled() {
  const auto dropped = [this](RunningJob& job) {
    if (!job.cancelled()) return false;
    job.end(metrics_, text::FinishReason::kCancelled);
    return true;
  };
  std::erase_if(waiting_, dropped);
  std::erase_if(running_, [&](RunningJob& job) {
    const text::RequestId id = job.id();
    if (!dropped(job)) return false;
    decoder_->finish(id);
    return true;
  });
}

void UnifiedExecutor::admit() {
  while (!waiting_.empty() && running_.size() < options_.max_running) {
    if (!running_.empty() && waiting_.front().prompt_size() > room()) return;
    RunningJob job = std::move(waiting_.front());
    waiting_.pop_front();
    if (admit(job)) running_.push_back(std::move(job));
  }
}

// Of the cache, beyond what those that run are about to take: the rest of their prompts, and a page
// each for their answers. Who came in without it would be sent away again by the next step.
size_t UnifiedExecutor::room() const {
  size_t spoken_for = 0;
  for (const RunningJob& job : running_)
    spoken_for += decoder_->prompt_tokens_left(job.id()) + kernels::kPageTokens;
  const size_t free_tokens = decoder_->free_tokens();
  return free_tokens - std::min(spoken_for, free_tokens);
}

// A request that cannot be started fails alone.
bool UnifiedExecutor::admit(RunningJob& job) {
  try {
    decoder_->start(job.id(), job.request());
  } catch (const Error& error) {
    job.fail(metrics_, error);
    return false;
  }
  job.started(metrics_, decoder_->reused_prompt_tokens(job.id()));
  return true;
}

text::Decoder::StepPlan UnifiedExecutor::plan() const {
  const auto in_prefill = [](const RunningJob& job) { return job.in_prefill(); };
  const bool prompts = std::any_of(running_.begin(), running_.end(), in_prefill);
  const bool answers = !std::all_of(running_.begin(), running_.end(), in_prefill);
  text::Decoder::StepPlan plan{.max_prompt_tokens = chunk_bound_.tokens(answers)};
  if (options_.policy == UnifiedPolicy::kPrefillFirst) plan.advance_answers = !prompts;
  if (options_.policy == UnifiedPolicy::kDecodeFirst) plan.advance_prompts = !answers;
  return plan;
}

void UnifiedExecutor::step() {
  const auto prompt_tokens_left = [this] {
    size_t left = 0;
    for (const RunningJob& job : running_) left += decoder_->prompt_tokens_left(job.id());
    return left;
  };
  const size_t left_before = prompt_tokens_left();
  std::span<const text::DecodedToken> decoded;
  try {
    const std::lock_guard turn(*turns_);
    const Clock::time_point start = Clock::now();
    decoded = decoder_->step(plan());
    const size_t read = left_before - prompt_tokens_left();
    chunk_bound_.measured(read, std::chrono::duration<double>(Clock::now() - start).count());
    metrics_.prompt_tokens.fetch_add(read, std::memory_order_relaxed);
    metrics_.prompt_rate.add(read);
    metrics_.steps.fetch_add(1, std::memory_order_relaxed);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOutOfResources) throw;
    preempt_youngest();
    return;
  }
  for (RunningJob& job : running_) job.prompt_left(decoder_->prompt_tokens_left(job.id()));
  for (const text::DecodedToken& token : decoded) deliver(token);
}

// The cache is full: the request that has come furthest least gives up its room, and will be read
// again, its answer so far included. Nobody notices but by the pause.
void UnifiedExecutor::preempt_youngest() {
  RunningJob job = std::move(running_.back());
  running_.pop_back();
  decoder_->finish(job.id());
  if (running_.empty()) {
    job.fail(metrics_, Error(ErrorKind::kOutOfResources,
                             "the KV cache has no room for this request alone. Start the server "
                             "with more --kv-tokens."));
    return;
  }
  job.preempted(metrics_);
  waiting_.push_front(std::move(job));
}

void UnifiedExecutor::deliver(const text::DecodedToken& decoded) {
  if (!running(decoded.request).token(metrics_, decoded, end_tokens_)) return;
  decoder_->finish(decoded.request);
  forget(decoded.request);
}

RunningJob& UnifiedExecutor::running(text::RequestId id) {
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [id](const RunningJob& job) { return job.id() == id; });
  WEFT_ASSERT(it != running_.end());
  return *it;
}

void UnifiedExecutor::forget(text::RequestId id) {
  std::erase_if(running_, [id](const RunningJob& job) { return job.id() == id; });
}

void UnifiedExecutor::publish() {
  const size_t free_tokens = decoder_->free_tokens();
  const std::lock_guard lock(mutex_);
  num_waiting_ = waiting_.size();
  num_running_ = running_.size();
  free_tokens_ = free_tokens;
}

}  // namespace

std::unique_ptr<PhaseExecutor> make_unified_executor(std::unique_ptr<text::Decoder> decoder,
                                                     const formats::Tokenizer& end_tokens,
                                                     const UnifiedOptions& options,
                                                     std::shared_ptr<Turns> turns) {
  return std::make_unique<UnifiedExecutor>(std::move(decoder), end_tokens, options,
                                           std::move(turns));
}

}  // namespace weft::serve
