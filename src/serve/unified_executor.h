// Both phases in one loop, a ragged batch a step: the answers' next tokens and pieces of prompts.
// With chunked prefill (Sarathi-Serve, arXiv 2403.02310) this is what current servers do, and what
// semi-PD is measured against.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/error.h"
#include "formats/tokenizer.h"
#include "serve/batch.h"
#include "serve/phase_executor.h"
#include "serve/turns.h"
#include "text/decoder.h"

namespace weft::serve {

enum class UnifiedPolicy : uint8_t {
  kChunked,       // every step: all answers, and up to `chunk_tokens` of prompts
  kPrefillFirst,  // whole prompts before any answer goes on (vLLM 0.6's default)
  kDecodeFirst,   // prompts only while no answer runs
};

struct UnifiedOptions {
  UnifiedPolicy policy = UnifiedPolicy::kChunked;
  size_t chunk_tokens = 256;  // of prompts, in one step
  // Smaller pieces of prompt while answers run, so that a step takes no longer than this.
  std::optional<double> max_stall_s = {};
  size_t max_running = 64;  // requests in one batch
  size_t max_queued = 256;  // waiting for their first step
  PromptOrder order = {};
  // A rank that computes with this one was lost: all requests have got the error, and so will those
  // that come. Called by the executor's thread.
  std::function<void(const Error&)> on_lost = {};
};

// `end_tokens` outlives it; `cores` are the decoder's. Executors that share cores share `turns`
// too: each takes one for a step.
std::unique_ptr<PhaseExecutor> make_unified_executor(std::unique_ptr<text::Decoder> decoder,
                                                     const formats::Tokenizer& end_tokens,
                                                     const UnifiedOptions& options, CoreSet cores,
                                                     std::shared_ptr<Turns> turns);

}  // namespace weft::serve
