// semi-PD: prefill and decode run in two loops at the same time, on shares of the same cores, over
// the same weights and one pool of KV blocks (Hong et al., arXiv 2504.19867). A request whose prompt
// has been read moves to the decode loop without a byte of its cache being copied; a controller moves
// the border between the shares (partition_controller.h), or the user sets it.
//
// Under the partition "unified" the decode loop rests and the prefill loop does both, as
// UnifiedExecutor does: requests move over and back the same way.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "serve/batch.h"
#include "serve/isolate/isolation.h"
#include "serve/phase_executor.h"
#include "serve/semi_pd/partition_controller.h"
#include "serve/semi_pd/promises.h"
#include "text/text_model.h"

namespace weft::serve::semi_pd {

struct SemiPdOptions {
  size_t num_cores = 2;
  // A fixed one, or the controller's choice; it needs the profile.
  std::optional<Partition> partition = {};
  ControllerOptions controller = {};
  PhaseProfile profile = {};
  size_t kv_tokens = 4096;     // of the pool
  size_t chunk_tokens = 256;   // of prompts, in one step
  // No answer waits longer for its next token on account of prompts: the controller has such
  // partitions alone to choose from, and where one loop does both, pieces are smaller.
  std::optional<double> max_stall_s = {};
  size_t max_running = 64;  // requests in both loops
  size_t max_queued = 256;
  PromptOrder order = {};
  // Kept in mind by the loop that does both phases: the controller's, or those of a user who gives
  // an SLO and the partition too. Set by with_promises.
  std::optional<Promises> promises = {};
  // Computes in processes of its own, with its pool (of kv_tokens) and its shares of the cores.
  isolate::Isolation* isolation = nullptr;
  // Each decision of the controller, in words. Called from its thread.
  std::function<void(const std::string&)> log = {};
};

// The controller's promises reach the loops too: which prompts come first, and how much of them in one
// step where answers wait for it. make_semi_pd_executor() sees to it.
SemiPdOptions with_promises(SemiPdOptions options);

class PartitionedExecutor : public PhaseExecutor {
 public:
  // Any thread, any time, unless a controller does it; takes microseconds. Cores move at their next
  // piece of work, requests (to and from "unified") at the next step.
  virtual void apply(const Partition& partition) = 0;
  // No core is held by a phase that may not use it any more. For benches.
  virtual bool settled() const = 0;
};

// `model` outlives it.
std::unique_ptr<PartitionedExecutor> make_semi_pd_executor(const text::TextModel& model,
                                                           const SemiPdOptions& options);

// Measures the profile with `model` on as many cores, which do nothing else meanwhile: a second or
// two.
PhaseProfile measure_profile(const text::TextModel& model, size_t num_cores);

}  // namespace weft::serve::semi_pd
