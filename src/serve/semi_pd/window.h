// What an executor tells the controller about a stretch of time; its only input. Sums, not means,
// so that windows can be added up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace weft::serve::semi_pd {

struct Window {
  double seconds = 0;
  uint64_t decode_steps = 0;

  // Requests that arrived in it, and their prompt tokens without those found in the prefix cache.
  uint64_t arrivals = 0;
  double prompt_tokens = 0;
  double prompt_tokens_squared = 0;
  std::optional<double> prompt_tokens_quantile;  // the SLO's percentile of one prompt's

  // Means over the steps of the window: requests in decode, and tokens of context of one of them.
  double running = 0;
  double context_tokens = 0;
  double decode_busy_s = 0;  // time with a request in decode, at most `seconds`

  // The SLO's percentile of what finished its first token (its answer) in this window, among
  // requests that arrived after the last change of partition: TTFT follows a switch a queue later.
  std::optional<double> ttft_s, tpot_s;

  // As the window ends:
  double backlog_tokens = 0;  // of prompts that have no first token yet, still to be computed
  double backlog_age_s = 0;   // since the oldest of them arrived
  double worst_gap_s = 0;     // longest time since the last token of a request in decode
};

// No part is NaN, infinite or negative, and time has passed: a clock that jumped or an executor
// that stood still makes no load.
bool is_sound(const Window& window);

// The load as it shows over several windows: the newest counts most, each earlier one `kKeep` of
// the next. Windows of 2 s hold few arrivals, and prompt lengths are heavy-tailed.
class Load {
 public:
  void add(const Window& window);  // a sound one

  double arrival_rate() const { return seconds_ > 0 ? arrivals_ / seconds_ : 0; }
  double mean_tokens() const { return arrivals_ > 0 ? tokens_ / arrivals_ : 0; }
  double mean_tokens_squared() const { return arrivals_ > 0 ? tokens_squared_ / arrivals_ : 0; }
  double tokens_quantile() const { return tokens_quantile_; }
  double running() const { return running_; }
  double context_tokens() const { return context_tokens_; }
  double decode_busy() const { return seconds_ > 0 ? decode_busy_s_ / seconds_ : 0; }
  double backlog_tokens() const { return backlog_tokens_; }  // of the last window alone

 private:
  static constexpr double kKeep = 0.6;  // taste: half the weight is in the last 1.4 windows
  double seconds_ = 0, arrivals_ = 0, tokens_ = 0, tokens_squared_ = 0, decode_busy_s_ = 0;
  double tokens_quantile_ = 0, running_ = 0, context_tokens_ = 0, backlog_tokens_ = 0;
};

}  // namespace weft::serve::semi_pd
