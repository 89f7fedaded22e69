// How many prompt tokens fit into a step that answers wait for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>

namespace weft::serve {

// How fast prompts were read lately while answers waited for it: bounds the piece that fits a stall.
class ChunkBound {
 public:
  ChunkBound(size_t chunk_tokens, std::optional<double> max_stall_s)
      : chunk_tokens_(chunk_tokens), max_stall_s_(max_stall_s) {}

  size_t tokens(bool answers_wait) const {
    if (!max_stall_s_ || !answers_wait) return chunk_tokens_;
    constexpr double kCautious = 32;  // tokens, until a step has been measured
    const double fit = seconds_per_token_ > 0
                           ? (*max_stall_s_ - decode_seconds_) / seconds_per_token_
                           : kCautious;
    return static_cast<size_t>(
        std::clamp(fit, 1.0, static_cast<double>(chunk_tokens_)));
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
  size_t chunk_tokens_;
  std::optional<double> max_stall_s_;
  double seconds_per_token_ = 0, decode_seconds_ = 0;
};

}  // namespace weft::serve
