// Factors that even out a model's keys before they are stored in few bits (PM-KVQ, arXiv 2505.18610,
// eq. 9-12): keys are divided, and queries multiplied, by
//
//   lambda_j = (max over tokens of |K_j|)^alpha        for each layer, KV head and feature j
//
// with alpha of each layer out of a grid: the one with the least mean squared error of the layer's
// attention, keys quantised and values exact, against attention over exact ones.
//
// It differs from the paper in this: factors work after RoPE at run time, so the features of a rotary
// pair have their own and quantised weights stay as they are; alpha = 0 (no smoothing) is tried as
// well; the error is taken before the output product; positions are not stretched.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "models/language_model.h"

namespace weft::text {

// Of one layer.
struct KvSmoothing {
  double alpha = 0;
  // Mean squared error of attention over its mean square: at alpha, and at 0.
  double error = 0, plain_error = 0;
  std::vector<float> factors;  // (num_kv_heads, head_dim), > 0
};

struct KvSmoothingOptions {
  size_t bits = 4;        // of keys: 8, 4 or 2
  size_t grid = 20;       // alpha = 0, 1 / grid, ... 1
  size_t most_tokens = 1024;  // of the text; time grows with their square
};

// kInvalidInput: a text of less than a page of tokens. kUnsupported: a model whose queries do not pass
// by its cache.
std::vector<KvSmoothing> search_smoothing(const models::LanguageModel& model,
                                          std::span<const models::Token> tokens,
                                          const KvSmoothingOptions& options, const CoreSet& cores,
                                          StopToken stop = {}, const ProgressFn& progress = {});

// |K|'s maxima to factors; what is tiny or huge stays within [1e-4, 1e4].
std::vector<float> smoothing_factors(std::span<const float> maxima, double alpha);

}  // namespace weft::text
