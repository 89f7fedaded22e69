#include "serve/semi_pd/window.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace weft::serve::semi_pd {

bool is_sound(const Window& w) {
  // A window lasts seconds; one of more than ten minutes is a suspended machine or a clock that
  // jumped.
  constexpr double kLongest = 600;
  if (!(w.seconds > 0 && w.seconds <= kLongest)) return false;
  const double parts[] = {w.prompt_tokens,
                          w.prompt_tokens_squared,
                          w.prompt_tokens_quantile.value_or(0),
                          w.running,
                          w.context_tokens,
                          w.decode_busy_s,
                          w.ttft_s.value_or(0),
                          w.tpot_s.value_or(0),
                          w.backlog_tokens,
                          w.backlog_age_s,
                          w.worst_gap_s};
  return std::all_of(std::begin(parts), std::end(parts),
                     [](double part) { return std::isfinite(part) && part >= 0; });
}

void Load::add(const Window& w) {
  const auto blend = [](double& sum, double value) { sum = kKeep * sum + value; };
  const bool first = seconds_ == 0;
  blend(seconds_, w.seconds);
  blend(arrivals_, static_cast<double>(w.arrivals));
  blend(tokens_, w.prompt_tokens);
  blend(tokens_squared_, w.prompt_tokens_squared);
  blend(decode_busy_s_, std::min(w.decode_busy_s, w.seconds));
  const auto follow = [](double& mean, double value, bool first) {
    mean = first ? value : kKeep * mean + (1 - kKeep) * value;
  };
  if (w.prompt_tokens_quantile)
    follow(tokens_quantile_, *w.prompt_tokens_quantile, tokens_quantile_ == 0);
  follow(running_, w.running, first);
  if (w.running > 0) follow(context_tokens_, w.context_tokens, context_tokens_ == 0);
  backlog_tokens_ = w.backlog_tokens;
}

}  // namespace weft::serve::semi_pd
