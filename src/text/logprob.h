// Log-probabilities from logits.
#pragma once

#include <cstddef>
#include <span>

namespace weft::text {

// The logarithm of a softmax's denominator, the largest logit apart from the rest.
struct LogSum {
  float max = 0;
  double log_sum = 0;  // log(sum(exp(logit - max)))
  double logprob(float logit) const { return static_cast<double>(logit - max) - log_sum; }
};

// kInvalidInput, naming `position`: a logit is NaN, or the largest one is infinite.
LogSum log_sum_exp(std::span<const float> logits, size_t position);

// The same checks for other passes over logits.
void check_not_nan(float logit, size_t token, size_t position);
void check_best(float largest_logit, size_t position);

}  // namespace weft::text
