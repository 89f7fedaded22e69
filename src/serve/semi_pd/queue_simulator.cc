#include "serve/semi_pd/queue_simulator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace weft::serve::semi_pd {

std::optional<double> quantile(std::vector<double> values, double p) {
  if (values.empty()) return std::nullopt;
  const auto n = static_cast<double>(values.size());
  const auto rank = static_cast<size_t>(std::clamp(std::ceil(p * n), 1.0, n)) - 1;
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(rank), values.end());
  return values[rank];
}

QueueSimulator::QueueSimulator(PhaseSpeeds speeds, const Partition& partition, double percentile)
    : speeds_(std::move(speeds)), partition_(partition), percentile_(percentile) {}

void QueueSimulator::submit(const SimulatedRequest& request) {
  WEFT_ASSERT(request.arrival_s >= (future_.empty() ? now_s_ : future_.back().arrival_s));
  WEFT_ASSERT(request.answer_tokens >= 1);
  future_.push_back(request);
}

void QueueSimulator::apply(const Partition& partition) {
  partition_ = partition;
  applied_s_ = now_s_;
}

DecodeBatch QueueSimulator::batch_load() const {
  DecodeBatch load{.requests = static_cast<double>(batch_.size())};
  for (const Running& running : batch_) load.context_tokens += running.context_tokens;
  if (!batch_.empty()) load.context_tokens /= load.requests;
  return load;
}

void QueueSimulator::run_until(double time_s) {
  while (now_s_ < time_s) {
    // Speeds hold until the next event: an arrival, a prompt's end, a step's end.
    const DecodeBatch load = batch_load();
    const double per_token =
        prefill_busy() ? speeds_.prefill_s_per_token(partition_, decode_busy() ? 1 : 0, load) : 0;
    const double step =
        decode_busy() ? speeds_.step_s(partition_, prefill_busy() ? 1 : 0, load) : 0;
    const double never = INFINITY;
    const double arrival = future_.empty() ? never : future_.front().arrival_s - now_s_;
    const double prompt_end = prefill_busy() ? prompt_left_ * per_token : never;
    const double step_end = decode_busy() ? step_left_ * step : never;
    const double next = std::min({arrival, prompt_end, step_end});
    if (next > time_s - now_s_) {
      advance(time_s - now_s_, per_token, step);
      now_s_ = time_s;
      return;
    }
    advance(next, per_token, step);
    if (next == arrival) now_s_ = future_.front().arrival_s;  // no rounding: arrivals are compared
    if (next == prompt_end) finish_prompt();
    if (next == step_end) finish_step();
    if (next == arrival) arrive();
  }
}

void QueueSimulator::advance(double seconds, double prefill_s_per_token, double step_s) {
  now_s_ += seconds;
  if (prefill_busy()) prompt_left_ -= seconds / prefill_s_per_token;
  if (!decode_busy()) return;
  step_left_ -= seconds / step_s;
  window_.decode_busy_s += seconds;
}

void QueueSimulator::arrive() {
  Running running{.request = future_.front()};
  running.served.arrival_s = running.request.arrival_s;
  future_.pop_front();
  ++window_.arrivals;
  window_.prompt_tokens += running.request.prompt_tokens;
  window_.prompt_tokens_squared += running.request.prompt_tokens * running.request.prompt_tokens;
  prompts_.push_back(running.request.prompt_tokens);
  if (waiting_.empty()) prompt_left_ = running.request.prompt_tokens;
  waiting_.push_back(running);
}

void QueueSimulator::finish_prompt() {
  Running running = waiting_.front();
  waiting_.pop_front();
  running.context_tokens = running.request.prompt_tokens + 1;
  running.last_token_s = now_s_;
  running.served.ttft_s = now_s_ - running.served.arrival_s;
  if (running.served.arrival_s >= applied_s_) ttfts_.push_back(running.served.ttft_s);
  if (!waiting_.empty()) {
    waiting_.front().served.wait_s = now_s_ - waiting_.front().served.arrival_s;
    prompt_left_ = waiting_.front().request.prompt_tokens;
  }
  if (running.request.answer_tokens == 1) return finish(running);
  if (decode_busy()) {
    joining_.push_back(running);
  } else {
    batch_.push_back(running);
    step_left_ = 1;
  }
}

void QueueSimulator::finish_step() {
  ++window_.decode_steps;
  running_sum_ += static_cast<double>(batch_.size());
  context_sum_ += batch_load().context_tokens;
  step_left_ = 1;
  for (Running& running : batch_) {
    ++running.tokens;
    ++running.context_tokens;
    running.last_token_s = now_s_;
    if (running.tokens == running.request.answer_tokens) finish(running);
  }
  std::erase_if(batch_, [](const Running& r) { return r.tokens == r.request.answer_tokens; });
  batch_.insert(batch_.end(), joining_.begin(), joining_.end());
  joining_.clear();
}

void QueueSimulator::finish(const Running& running) {
  ServedRequest served = running.served;
  if (running.tokens > 1) {
    served.tpot_s =
        (now_s_ - served.arrival_s - served.ttft_s) / static_cast<double>(running.tokens - 1);
    if (served.arrival_s >= applied_s_) tpots_.push_back(*served.tpot_s);
  }
  served_.push_back(served);
}

std::vector<ServedRequest> QueueSimulator::take_served() { return std::exchange(served_, {}); }

Window QueueSimulator::take_window() {
  Window window = std::exchange(window_, {});
  window.seconds = now_s_ - std::exchange(window_began_s_, now_s_);
  // Per unit of time: the mean of the steps counts only while there are any.
  const auto steps = static_cast<double>(window.decode_steps);
  if (steps > 0) {
    window.running = std::exchange(running_sum_, 0) / steps;
    window.context_tokens = std::exchange(context_sum_, 0) / steps;
  }
  window.prompt_tokens_quantile = quantile(std::exchange(prompts_, {}), percentile_);
  window.ttft_s = quantile(std::exchange(ttfts_, {}), percentile_);
  window.tpot_s = quantile(std::exchange(tpots_, {}), percentile_);
  for (const Running& running : waiting_) window.backlog_tokens += running.request.prompt_tokens;
  if (!waiting_.empty()) {
    window.backlog_tokens += std::max(0.0, prompt_left_) - waiting_.front().request.prompt_tokens;
    window.backlog_tokens = std::max(0.0, window.backlog_tokens);
  }
  const Moment now = moment();
  window.worst_gap_s = now.worst_gap_s;
  window.backlog_age_s = now.backlog_age_s;
  return window;
}

QueueSimulator::Moment QueueSimulator::moment() const {
  Moment moment;
  if (!waiting_.empty()) moment.backlog_age_s = now_s_ - waiting_.front().served.arrival_s;
  for (const auto* requests : {&batch_, &joining_})
    for (const Running& running : *requests)
      moment.worst_gap_s = std::max(moment.worst_gap_s, now_s_ - running.last_token_s);
  return moment;
}

}  // namespace weft::serve::semi_pd
