#include "text/logprob.h"

#include <cmath>
#include <limits>

#include "base/error.h"

namespace weft::text {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

LogSum log_sum_exp(std::span<const float> logits, size_t position) {
  float max = -kInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= max) continue;  // false for NaN
    check_not_nan(logits[i], i, position);
    max = logits[i];
  }
  check_best(max, position);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return {max, std::log(sum)};
}

void check_not_nan(float logit, size_t token, size_t position) {
  if (std::isnan(logit))
    fail(ErrorKind::kInvalidInput,
         "the model gave NaN as logit of token {} at position {}: its weights are damaged, or its "
         "activations overflowed. Fetch or convert the file again.",
         token, position);
}

void check_best(float largest_logit, size_t position) {
  if (largest_logit == kInfinity)
    fail(ErrorKind::kInvalidInput,
         "the model gave an infinite logit at position {}: its weights are damaged, or its "
         "activations overflowed. Fetch or convert the file again.",
         position);
  if (largest_logit == -kInfinity)
    fail(ErrorKind::kInvalidInput,
         "no token can follow at position {}: every logit is -inf. Does logit_bias ban the whole "
         "vocabulary?",
         position);
}

}  // namespace weft::text
