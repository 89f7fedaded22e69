// Perplexity of a text under a model, as llama.cpp's llama-perplexity defines it, so that figures
// can be compared: the text's tokens are cut into windows that do not overlap, each is read on its
// own, and the second half of each is scored, where every token has at least half a window before
// it. A rest shorter than a window is left out.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "kernels/kv_view.h"
#include "models/language_model.h"
#include "text/kv_policy.h"

namespace weft::text {

struct PerplexityOptions {
  size_t window_tokens = 512;               // 4 to the model's context_length
  size_t max_windows = SIZE_MAX;            // only the first ones
  std::optional<models::Token> first = {};  // replaces every window's first token: BOS, where used
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;
  // Keys and values under it are what they are in generation, token by token: no query sees what its
  // position would not.
  std::shared_ptr<const KvPolicy> kv_policy = nullptr;
};

struct Perplexity {
  double perplexity = 0;      // exp of the mean surprise
  double standard_error = 0;  // of `perplexity`
  size_t num_windows = 0;
  size_t num_scored = 0;  // tokens: per window, those after the first of its second half
};

// `tokens` must fill two windows at least. kInvalidInput: they do not, or a bad window; kCancelled.
// `progress` counts tokens.
Perplexity measure_perplexity(const models::LanguageModel& model,
                              std::span<const models::Token> tokens,
                              const PerplexityOptions& options, const CoreSet& cores,
                              StopToken stop = {}, const ProgressFn& progress = {});

}  // namespace weft::text
