// Gathers what the loops see into the controller's windows. Thread-safe.
#pragma once

#include <mutex>
#include <vector>

#include "serve/job.h"
#include "serve/semi_pd/window.h"

namespace weft::serve::semi_pd {

class WindowRecorder {
 public:
  explicit WindowRecorder(double percentile) : percentile_(percentile) {}

  void prompt_admitted(size_t uncached_tokens);
  void first_token(const Job& job);
  void ended(const Job& job);
  void decode_step(size_t running, double context_tokens, double seconds);
  // From now on, only requests that arrive later count for TTFT and TPOT.
  void partition_changed();

  double seconds() const;         // since the last take()
  uint64_t decode_steps() const;  // likewise
  // All but the last three members, which are of the moment.
  Window take();

 private:
  const double percentile_;
  mutable std::mutex mutex_;  // guards the rest
  Window window_;
  double running_sum_ = 0, context_sum_ = 0;
  std::vector<double> prompts_, ttfts_, tpots_;
  Clock::time_point began_ = Clock::now(), changed_ = Clock::now();
};

}  // namespace weft::serve::semi_pd
