#include "serve/semi_pd/window_recorder.h"

#include <algorithm>
#include <utility>

#include "base/seconds.h"
#include "serve/semi_pd/queue_simulator.h"

namespace weft::serve::semi_pd {

void WindowRecorder::prompt_admitted(size_t uncached_tokens) {
  const auto tokens = static_cast<double>(uncached_tokens);
  const std::lock_guard lock(mutex_);
  ++window_.arrivals;
  window_.prompt_tokens += tokens;
  window_.prompt_tokens_squared += tokens * tokens;
  prompts_.push_back(tokens);
}

void WindowRecorder::first_token(const Job& job) {
  const std::lock_guard lock(mutex_);
  if (job.arrival >= changed_) ttfts_.push_back(job.first_token_s.load());
}

void WindowRecorder::ended(const Job& job) {
  const size_t gaps = job.generated.load() - 1;
  const std::lock_guard lock(mutex_);
  if (job.arrival >= changed_ && gaps > 0)
    tpots_.push_back((job.last_token_s.load() - job.first_token_s.load()) /
                     static_cast<double>(gaps));
}

void WindowRecorder::decode_step(size_t running, double context_tokens, double seconds) {
  const std::lock_guard lock(mutex_);
  ++window_.decode_steps;
  window_.decode_busy_s += seconds;
  running_sum_ += static_cast<double>(running);
  context_sum_ += context_tokens;
}

void WindowRecorder::partition_changed() {
  const std::lock_guard lock(mutex_);
  changed_ = Clock::now();
}

double WindowRecorder::seconds() const {
  const std::lock_guard lock(mutex_);
  return seconds_since(began_);
}

uint64_t WindowRecorder::decode_steps() const {
  const std::lock_guard lock(mutex_);
  return window_.decode_steps;
}

Window WindowRecorder::take() {
  const std::lock_guard lock(mutex_);
  Window window = std::exchange(window_, {});
  const Clock::time_point now = Clock::now();
  window.seconds = std::chrono::duration<double>(now - std::exchange(began_, now)).count();
  const double running = std::exchange(running_sum_, 0), context = std::exchange(context_sum_, 0);
  if (window.decode_steps != 0) {
    window.running = running / static_cast<double>(window.decode_steps);
    window.context_tokens = context / static_cast<double>(window.decode_steps);
  }
  window.prompt_tokens_quantile = quantile(std::exchange(prompts_, {}), percentile_);
  window.ttft_s = quantile(std::exchange(ttfts_, {}), percentile_);
  window.tpot_s = quantile(std::exchange(tpots_, {}), percentile_);
  return window;
}

}  // namespace weft::serve::semi_pd
