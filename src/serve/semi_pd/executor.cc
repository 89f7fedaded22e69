#include "serve/semi_pd/executor.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <thread>
#include <utility>
#include <vector>

#include "base/core_share.h"
#include "base/seconds.h"
#include "serve/chunk_bound.h"
#include "serve/semi_pd/loop.h"
#include "serve/semi_pd/window_recorder.h"
#include "serve/turns.h"

namespace weft::serve::semi_pd {
namespace {

// How soon the memory of a step that took long fades.
constexpr double kNewestStep = 0.1;

class SemiPdExecutor final : public PartitionedExecutor {
 public:
  SemiPdExecutor(const text::TextModel& model, const SemiPdOptions& options);
  ~SemiPdExecutor() override;

  const char* name() const override { return "semi-pd"; }
  void submit(std::shared_ptr<Job> job) override;
  void wake() override;
  ExecutorState state() const override;
  const Metrics& metrics() const override { return metrics_; }
  void compute(const std::function<void(const CoreSet&)>& work) override;
  void apply(const Partition& partition) override;
  bool settled() const override { return share_.settled(); }

 private:
  void run_prefill();
  bool wait_for_prompts();
  void give_way_to_decode();
  void admit();
  void step_prefill();
  StepShare share_of_step() const;
  double predicted_step_s(size_t answers, size_t prompt_tokens) const;
  void make_room_in_prefill(size_t outside);

  void run_decode();
  bool wait_for_answers();
  void step_decode();
  void make_room_in_decode();

  void run_controller();
  Window take_window();
  void add_moment(Window& window) const;

  bool one_loop() const { return one_loop_.load(std::memory_order_relaxed); }
  size_t in_decode() const;
  size_t outside_prefill() const;
  bool prefill_takes_answers() const;
  void send_to_prefill(std::vector<Moving> moving);
  void send_to_decode(std::vector<Moving> moving);
  void room_was_freed();
  void publish_prefill();
  void publish_decode();

  const SemiPdOptions options_;
  Metrics metrics_;
  std::optional<CoreShare> own_share_;  // unless phases have processes of their own
  CoreShare& share_;
  std::shared_ptr<text::KvPool> pool_;
  WindowRecorder recorder_;
  std::atomic<bool> one_loop_{false};
  std::atomic<double> by_steps_s_{0};  // the partition's bound, 0 if it has none
  Turns prefill_turns_;  // the prefill loop's steps, and other work on its cores

  // Of the prefill loop's thread alone.
  Loop prefill_;
  ChunkBound chunk_bound_;
  std::optional<PhaseSpeeds> speeds_;  // where there are promises
  double step_correction_ = 1;         // of what they predict for a step
  std::deque<RunningJob> waiting_;  // first come, first served; preempted ones in front
  uint64_t prefill_saw_freed_ = 0;  // times_freed_ before its last step
  bool prefill_is_stuck_ = false;   // no prompt can go on until room is freed
  // Of the decode loop's thread alone.
  Loop decode_;
  uint64_t decode_saw_freed_ = 0;
  double step_s_ = 0;  // the longest of late
  bool decode_is_stuck_ = false;

  // What a loop tells the others, as of its last step.
  struct Published {
    size_t prompt_tokens = 0;  // to be read
    std::optional<Clock::time_point> oldest_prompt, oldest_last_token;
    text::KvUsage kv;
    void add(const RunningJob& job, size_t tokens_left);
  };
  mutable std::mutex mutex_;  // guards the rest but the threads
  std::condition_variable prompts_changed_, answers_changed_, control_changed_;
  bool stopping_ = false, woken_prefill_ = false, woken_decode_ = false;
  bool prefill_steps_ = false;  // the prefill loop is within a step
  std::vector<std::shared_ptr<Job>> arrived_;
  std::vector<Moving> to_prefill_, to_decode_;  // on their way
  std::vector<RunningJob> preempted_;           // by the decode loop
  size_t num_waiting_ = 0, in_prefill_ = 0;
  size_t in_decode_ = 0;  // on their way there, too
  Published of_prefill_, of_decode_;  // of_prefill_ with those that wait
  uint64_t times_freed_ = 0;
  bool decode_needs_room_ = false;  // of the prefill loop's prompts
  Partition partition_;
  uint64_t partition_moves_ = 0;
  std::string last_decision_;
  std::optional<PhaseForecast> forecast_;
  std::optional<PartitionController> controller_;  // its thread's

  std::vector<std::thread> threads_;
};

text::TextModel::DecoderOptions decoder_options(const SemiPdOptions& options, Phase phase,
                                                const std::shared_ptr<text::KvPool>& pool) {
  if (options.isolation == nullptr) return {.pool = pool};
  return {.pool = pool, .model = options.isolation->model(phase)};
}

SemiPdExecutor::SemiPdExecutor(const text::TextModel& model, const SemiPdOptions& options)
    : options_(options),
      share_(options.isolation != nullptr
                 ? options.isolation->share()
                 : own_share_.emplace(CoreShareOptions{.num_cores = options.num_cores})),
      pool_(options.isolation != nullptr ? options.isolation->pool()
                                         : model.make_pool(options.kv_tokens)),
      recorder_(options.controller.slo.percentile),
      prefill_(model, decoder_options(options, Phase::kPrefill, pool_),
               share_.cores(Phase::kPrefill), metrics_, options.order),
      chunk_bound_(options.chunk_tokens, options.max_stall_s),
      speeds_(options.promises ? std::optional<PhaseSpeeds>(options.profile) : std::nullopt),
      decode_(model, decoder_options(options, Phase::kDecode, pool_), share_.cores(Phase::kDecode),
              metrics_, options.order) {
  pool_->make_resident();
  for (Loop* const loop : {&prefill_, &decode_}) {
    loop->batch.on_first_token = [this](const Job& job) { recorder_.first_token(job); };
    loop->batch.on_end = [this](const Job& job) { recorder_.ended(job); };
  }
  if (!options.partition) controller_.emplace(options.controller, options.profile);
  apply(options.partition ? *options.partition : controller_->current());
  threads_.emplace_back([this] { run_prefill(); });
  threads_.emplace_back([this] { run_decode(); });
  if (controller_) threads_.emplace_back([this] { run_controller(); });
}

SemiPdExecutor::~SemiPdExecutor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  prompts_changed_.notify_all();
  answers_changed_.notify_all();
  control_changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (auto* const moving : {&to_prefill_, &to_decode_})
    for (Moving& m : *moving) m.job.end(metrics_, text::FinishReason::kCancelled);
  for (RunningJob& job : preempted_) job.end(metrics_, text::FinishReason::kCancelled);
  for (auto& job : arrived_)
    RunningJob(std::move(job)).end(metrics_, text::FinishReason::kCancelled);
}

// ---- from outside

void SemiPdExecutor::submit(std::shared_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    check_queue(arrived_.size() + num_waiting_, options_.max_queued, metrics_);
    arrived_.push_back(std::move(job));
  }
  prompts_changed_.notify_one();
  control_changed_.notify_one();
}

void SemiPdExecutor::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_prefill_ = woken_decode_ = true;
  }
  prompts_changed_.notify_one();
  answers_changed_.notify_one();
}

ExecutorState SemiPdExecutor::state() const {
  const std::lock_guard lock(mutex_);
  text::KvUsage kv = of_prefill_.kv;
  kv += of_decode_.kv;
  return {.queued = arrived_.size() + num_waiting_,
          .running = in_prefill_ + to_prefill_.size() + in_decode_,
          .capacity_tokens = pool_->capacity_tokens(),
          .free_tokens = pool_->free_tokens(),
          .kv = kv,
          .partition = PartitionState{
              .name = to_string(partition_),
              .prefill_cores = prefill_share(partition_, options_.num_cores),
              .decode_cores = decode_share(partition_, options_.num_cores),
              .moves = partition_moves_,
              .last_decision = last_decision_,
              .forecast = forecast_,
          }};
}

void SemiPdExecutor::compute(const std::function<void(const CoreSet&)>& work) {
  const std::lock_guard turn(prefill_turns_);
  const CoreShare::Running running(share_, Phase::kPrefill);
  work(share_.cores(Phase::kPrefill));
}

void SemiPdExecutor::apply(const Partition& partition) {
  share_.apply(core_partition(partition));
  {
    const std::lock_guard lock(mutex_);
    if (partition != partition_) ++partition_moves_;
    partition_ = partition;
    one_loop_.store(partition.kind == Partition::Kind::kUnified);
    by_steps_s_.store(partition.kind == Partition::Kind::kSteps ? partition.max_stall_s : 0);
  }
  recorder_.partition_changed();
  wake();
}

// ---- between the loops

size_t SemiPdExecutor::in_decode() const {
  const std::lock_guard lock(mutex_);
  return in_decode_;
}

// One loop does both, and is between two steps: answers never wait for the rest of a piece that was
// cut when they did not have to.
bool SemiPdExecutor::prefill_takes_answers() const {
  const std::lock_guard lock(mutex_);
  return one_loop() && !prefill_steps_;
}

// Requests that hold room but are not in the prefill loop.
size_t SemiPdExecutor::outside_prefill() const {
  const std::lock_guard lock(mutex_);
  return in_decode_ + to_prefill_.size();
}

void SemiPdExecutor::send_to_decode(std::vector<Moving> moving) {
  if (moving.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    in_decode_ += moving.size();
    std::move(moving.begin(), moving.end(), std::back_inserter(to_decode_));
  }
  answers_changed_.notify_one();
}

void SemiPdExecutor::send_to_prefill(std::vector<Moving> moving) {
  if (moving.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    in_decode_ -= moving.size();
    std::move(moving.begin(), moving.end(), std::back_inserter(to_prefill_));
  }
  prompts_changed_.notify_one();
}

void SemiPdExecutor::room_was_freed() {
  {
    const std::lock_guard lock(mutex_);
    ++times_freed_;
  }
  prompts_changed_.notify_one();
  answers_changed_.notify_one();
}

void SemiPdExecutor::Published::add(const RunningJob& job, size_t tokens_left) {
  const auto keep_older = [](std::optional<Clock::time_point>& oldest, Clock::time_point time) {
    if (!oldest || time < *oldest) oldest = time;
  };
  prompt_tokens += tokens_left;
  if (tokens_left == 0)
    keep_older(oldest_last_token, job.last_token());
  else
    keep_older(oldest_prompt, job.arrival());
}

void SemiPdExecutor::publish_prefill() {
  Published now;
  for (const RunningJob& job : prefill_.batch.jobs())
    now.add(job, prefill_.decoder.prompt_tokens_left(job.id()));
  for (const RunningJob& job : waiting_) now.add(job, job.prompt_size());
  now.kv = prefill_.decoder.kv_usage();
  const std::lock_guard lock(mutex_);
  of_prefill_ = now;
  num_waiting_ = waiting_.size();
  in_prefill_ = prefill_.batch.size();
}

void SemiPdExecutor::publish_decode() {
  Published now;
  for (const RunningJob& job : decode_.batch.jobs()) now.add(job, 0);
  now.kv = decode_.decoder.kv_usage();
  const std::lock_guard lock(mutex_);
  of_decode_ = now;
  const size_t in_decode = decode_.batch.size() + to_decode_.size();
  if (in_decode < in_decode_) {  // who was told of room before this number fell looks again
    ++times_freed_;
    prompts_changed_.notify_one();
  }
  in_decode_ = in_decode;
}

// ---- the prefill loop

void SemiPdExecutor::run_prefill() {
  share_.pin_driver(Phase::kPrefill);
  while (wait_for_prompts()) {
    if (!one_loop()) send_to_decode(prefill_.detach_answers());
    drop_cancelled(waiting_, metrics_);
    if (prefill_.batch.drop_cancelled()) room_was_freed();
    give_way_to_decode();
    admit();
    publish_prefill();
    if (prefill_.batch.empty()) continue;
    const std::lock_guard turn(prefill_turns_);
    const CoreShare::Running running(share_, Phase::kPrefill);
    step_prefill();
  }
  prefill_.batch.cancel_all();
  for (RunningJob& job : waiting_) job.end(metrics_, text::FinishReason::kCancelled);
}

// Takes what has come. False: the executor ends.
bool SemiPdExecutor::wait_for_prompts() {
  std::vector<Moving> moved;
  {
    std::unique_lock lock(mutex_);
    prefill_steps_ = false;
    if (one_loop() && in_decode_ != 0) {  // they come at the end of their step
      woken_decode_ = true;
      answers_changed_.notify_one();
      prompts_changed_.wait(lock, [this] { return stopping_ || !one_loop() || in_decode_ == 0; });
    }
    if (prefill_.batch.empty() || prefill_is_stuck_)
      prompts_changed_.wait(lock, [this] {
        return stopping_ || woken_prefill_ || !arrived_.empty() || !to_prefill_.empty() ||
               !preempted_.empty() || times_freed_ != prefill_saw_freed_ ||
               (decode_needs_room_ && !prefill_.batch.empty());
      });
    woken_prefill_ = prefill_is_stuck_ = false;
    prefill_saw_freed_ = times_freed_;
    for (auto& job : arrived_) waiting_.emplace_back(std::move(job));
    for (RunningJob& job : preempted_) waiting_.push_front(std::move(job));
    arrived_.clear();
    preempted_.clear();
    num_waiting_ = waiting_.size();
    if (stopping_) return false;
    prefill_steps_ = true;
    moved.swap(to_prefill_);
  }
  for (Moving& m : moved) prefill_.attach(std::move(m));
  return true;
}

// The last answer that runs finds no room: prompts give theirs, the youngest first.
void SemiPdExecutor::give_way_to_decode() {
  {
    const std::lock_guard lock(mutex_);
    if (!decode_needs_room_) return;
    decode_needs_room_ = false;
  }
  if (prefill_.batch.empty()) return;
  waiting_.push_front(prefill_.batch.preempt_youngest().preempted(metrics_));
  room_was_freed();
}

void SemiPdExecutor::admit() {
  while (!waiting_.empty()) {
    const RunningJob& next = waiting_.front();
    const size_t answers = in_decode(), running = prefill_.batch.size() + answers;
    if (running >= options_.max_running) return;
    const size_t needed = prefill_.batch.tokens_spoken_for() + answers * kernels::kPageTokens +
                          prefill_.batch.room_for(next);
    if (running != 0 && needed > pool_->free_tokens()) return;
    if (prefill_.batch.reads_prompt_of(next)) return;
    RunningJob job = std::move(waiting_.front());
    waiting_.pop_front();
    const size_t before = prefill_.batch.size();
    prefill_.batch.start(std::move(job));
    if (prefill_.batch.size() != before)
      recorder_.prompt_admitted(
          prefill_.decoder.prompt_tokens_left(prefill_.batch.jobs().back().id()));
  }
}

void SemiPdExecutor::step_prefill() {
  const bool both = one_loop();
  const size_t outside = outside_prefill();
  text::Decoder::StepPlan plan{.max_prompt_tokens = options_.chunk_tokens};
  StepShare share;
  if (both && options_.promises) {
    share = share_of_step();
    plan.max_prompt_tokens = share.prompt_tokens;
    plan.resting = share.resting;
  } else if (both) {
    plan.max_prompt_tokens = chunk_bound_.tokens(prefill_.batch.any_answer());
  } else {
    plan.advance_answers = false;
    plan.keep_free_tokens = outside * kernels::kPageTokens;  // for their next pages
  }
  const size_t answers = prefill_.batch.num_answers() - share.resting.size();
  const size_t context = prefill_.batch.mean_answer_context();
  const Clock::time_point start = Clock::now();
  const double predicted = both && speeds_ ? predicted_step_s(answers, 0) : 0;
  auto done = prefill_.batch.step(plan);
  if (!done && !share.resting.empty()) {  // no room for the others: these may end, and free some
    plan.resting = {};
    done = prefill_.batch.step(plan);
  }
  const double seconds = seconds_since(start);
  if (!done) return make_room_in_prefill(outside);
  if (both) chunk_bound_.measured(done->prompt_tokens, seconds);
  if (both && speeds_) {
    constexpr double kNewest = 0.1;
    const double expected =
        predicted + static_cast<double>(done->prompt_tokens) *
                        speeds_->prefill_s_per_token(options_.num_cores) * step_correction_;
    if (expected > 0)
      step_correction_ = std::clamp(
          step_correction_ * (1 + kNewest * (seconds / expected - 1)), 0.25, 4.0);
  }
  if (both && answers != 0) recorder_.decode_step(answers, static_cast<double>(context), seconds);
  if (done->ended) room_was_freed();
}

double SemiPdExecutor::predicted_step_s(size_t answers, size_t prompt_tokens) const {
  const double answers_s =
      answers == 0 ? 0
                   : speeds_->step_s(options_.num_cores,
                                     {static_cast<double>(answers),
                                      static_cast<double>(prefill_.batch.mean_answer_context())});
  return step_correction_ *
         (answers_s + static_cast<double>(prompt_tokens) *
                          speeds_->prefill_s_per_token(options_.num_cores));
}

StepShare SemiPdExecutor::share_of_step() const {
  const Clock::time_point now = Clock::now();
  std::vector<AnswerAge> answers;
  size_t in_reach = 0;
  for (const RunningJob& job : prefill_.batch.jobs()) {
    if (job.in_prefill()) continue;
    const double age_s = job.age_s(), ttft_s = job.job().first_token_s.load();
    answers.push_back({.id = job.id(),
                       .ttft_s = ttft_s,
                       .since_first_s = age_s - ttft_s,
                       .since_last_s = std::chrono::duration<double>(now - job.last_token()).count(),
                       .tokens = job.job().generated.load()});
    in_reach += !is_out_of_reach(*options_.promises, answers.back());
  }
  return share_step(*options_.promises, answers,
                    {.prompt_token_s = predicted_step_s(0, 1),
                     .answers_s = predicted_step_s(answers.size(), 0),
                     .answers_in_reach_s = predicted_step_s(in_reach, 0)},
                    prefill_.batch.any_prompt_in_time(), options_.chunk_tokens);
}

// `outside`: before the step that failed. If one of them has ended since, that freed room, and there
// is no waiting.
void SemiPdExecutor::make_room_in_prefill(size_t outside) {
  if (outside != 0) {
    prefill_is_stuck_ = true;  // until one of them ends
    return;
  }
  RunningJob job = prefill_.batch.preempt_youngest();
  if (prefill_.batch.empty())
    job.fail_for_room(metrics_);
  else
    waiting_.push_front(std::move(job).preempted(metrics_));
}

// ---- the decode loop

void SemiPdExecutor::run_decode() {
  share_.pin_driver(Phase::kDecode);
  // Kept from step to step: to leave and come back would cost a piece of prompt on its cores.
  std::optional<CoreShare::Running> running;
  while (true) {
    if (decode_.batch.empty() || decode_is_stuck_) running.reset();
    if (!wait_for_answers()) break;
    if (prefill_takes_answers()) send_to_prefill(decode_.detach_answers());
    if (decode_.batch.drop_cancelled()) room_was_freed();
    if (!decode_.batch.empty()) {
      if (!running) running.emplace(share_, Phase::kDecode);
      step_decode();
      running->step_done();
    }
    publish_decode();
  }
  running.reset();
  decode_.batch.cancel_all();
}

bool SemiPdExecutor::wait_for_answers() {
  std::vector<Moving> moved;
  {
    std::unique_lock lock(mutex_);
    if (decode_.batch.empty() || decode_is_stuck_)
      answers_changed_.wait(lock, [this] {
        return stopping_ || woken_decode_ || !to_decode_.empty() ||
               (decode_is_stuck_ && times_freed_ != decode_saw_freed_);
      });
    woken_decode_ = decode_is_stuck_ = false;
    decode_saw_freed_ = times_freed_;
    if (stopping_) return false;
    moved.swap(to_decode_);
  }
  for (Moving& m : moved) decode_.attach(std::move(m));
  return true;
}

void SemiPdExecutor::step_decode() {
  const size_t answers = decode_.batch.size();
  const size_t context = decode_.batch.mean_answer_context();
  const Clock::time_point start = Clock::now();
  const auto done = decode_.batch.step({.advance_prompts = false});
  if (!done) return make_room_in_decode();
  const double seconds = seconds_since(start);
  recorder_.decode_step(answers, static_cast<double>(context), seconds);
  if (const double bound = by_steps_s_.load(std::memory_order_relaxed); bound > 0) {
    step_s_ = std::max(seconds, step_s_ + kNewestStep * (seconds - step_s_));
    share_.set_prefill_turn(std::chrono::nanoseconds(
        static_cast<int64_t>(prefill_turn_s(bound, step_s_) * 1e9)));
  }
  if (done->ended) room_was_freed();
}

void SemiPdExecutor::make_room_in_decode() {
  if (decode_.batch.size() == 1) {
    const std::lock_guard lock(mutex_);
    if (in_prefill_ != 0 || !to_decode_.empty() || !to_prefill_.empty()) {
      decode_is_stuck_ = decode_needs_room_ = true;
      prompts_changed_.notify_one();
      return;
    }
  }
  RunningJob job = decode_.batch.preempt_youngest();
  if (decode_.batch.empty()) {
    job.fail_for_room(metrics_);
  } else {
    const std::lock_guard lock(mutex_);
    preempted_.push_back(std::move(job).preempted(metrics_));
  }
  room_was_freed();
}

// ---- the controller

PhaseForecast forecast(const Decision& decision, const Window& window) {
  const auto bounded = [](double seconds) {
    return std::isfinite(seconds) ? std::optional(seconds) : std::nullopt;
  };
  return {.predicted_ttft_s = bounded(decision.predicted.ttft_s),
          .observed_ttft_s = window.ttft_s,
          .predicted_tpot_s = bounded(decision.predicted.tpot_s),
          .observed_tpot_s = window.tpot_s};
}

void SemiPdExecutor::run_controller() {
  // Emergencies are looked for this often: a stalled answer is one of tens of milliseconds.
  constexpr auto kTick = std::chrono::milliseconds(20);
  while (true) {
    {
      std::unique_lock lock(mutex_);
      const bool idle = arrived_.empty() && num_waiting_ == 0 && in_prefill_ == 0 &&
                        to_prefill_.empty() && in_decode_ == 0;
      if (idle)
        control_changed_.wait(lock, [this] { return stopping_ || !arrived_.empty(); });
      else
        control_changed_.wait_for(lock, kTick, [this] { return stopping_; });
      if (stopping_) return;
    }
    if (controller_->window_is_over(recorder_.seconds(), recorder_.decode_steps())) {
      const Window window = take_window();
      const Decision decision = controller_->decide(window);
      if (decision.moved) apply(decision.partition);
      std::string text = describe(decision, window);
      if (options_.log && decision.reason != Reason::kIdle) options_.log(text);
      const std::lock_guard lock(mutex_);
      last_decision_ = std::move(text);
      if (!decision.candidates.empty()) forecast_ = forecast(decision, window);
    } else {
      Window moment;
      add_moment(moment);
      const auto partition = controller_->emergency(moment.worst_gap_s, moment.backlog_age_s);
      if (partition) apply(*partition);
    }
  }
}

Window SemiPdExecutor::take_window() {
  Window window = recorder_.take();
  add_moment(window);
  return window;
}

// The parts of a window that are of this moment.
void SemiPdExecutor::add_moment(Window& window) const {
  const Clock::time_point now = Clock::now();
  const auto age = [now](const std::optional<Clock::time_point>& time) {
    return time ? std::max(0.0, std::chrono::duration<double>(now - *time).count()) : 0.0;
  };
  const std::lock_guard lock(mutex_);
  window.backlog_tokens = static_cast<double>(of_prefill_.prompt_tokens);
  window.backlog_age_s = age(of_prefill_.oldest_prompt);
  window.worst_gap_s = std::max(age(of_prefill_.oldest_last_token), age(of_decode_.oldest_last_token));
}

}  // namespace

std::unique_ptr<PartitionedExecutor> make_semi_pd_executor(const text::TextModel& model,
                                                           const SemiPdOptions& options) {
  return std::make_unique<SemiPdExecutor>(model, with_promises(options));
}

}  // namespace weft::serve::semi_pd
