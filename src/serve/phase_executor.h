// Who runs prefill and who runs decode. An executor takes jobs and works on them with threads of its
// own until they end; UnifiedExecutor does both phases in one loop, semi-PD in two.
//
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/thread_pool.h"
#include "serve/job.h"
#include "serve/metrics.h"

namespace weft::serve {

// Of a controller's last window in which anything ran: the SLO's percentile, as its model said it would
// be and as it was. None: nothing ended, or no queue was predicted to end.
struct PhaseForecast {
  std::optional<double> predicted_ttft_s, observed_ttft_s, predicted_tpot_s, observed_tpot_s;
};

// Of the cores, between prefill and decode, where they run apart.
struct PartitionState {
  std::string name;
  double prefill_cores = 0, decode_cores = 0;  // shares
  uint64_t moves = 0;
  std::string last_decision;  // of the controller, in words; empty if there is none
  std::optional<PhaseForecast> forecast = {};  // of the controller
};

struct ExecutorState {
  size_t queued = 0, running = 0;
  size_t capacity_tokens = 0, free_tokens = 0;  // of the KV cache; kept prefixes count as free
  text::KvUsage kv = {};  // of the requests in the cache, by widths
  std::optional<PartitionState> partition = {};
};

class PhaseExecutor {
 public:
  virtual ~PhaseExecutor() = default;  // cancels what is left, and waits for its threads

  virtual const char* name() const = 0;
  // The job will end with one `finished` event. kOutOfResources: the queue is full, try again
  // later; kInvalidInput: what Decoder::start would say.
  virtual void submit(std::shared_ptr<Job> job) = 0;
  virtual void wake() = 0;  // after Job::cancelled was set
  virtual ExecutorState state() const = 0;
  virtual const Metrics& metrics() const = 0;
  // Other work on the executor's cores, between two steps of it. On the calling thread.
  virtual void compute(const std::function<void(const CoreSet&)>& work) = 0;
};

}  // namespace weft::serve
