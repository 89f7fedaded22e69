// The baseline that semi-PD was made against: prefill and decode apart in storage too, as DistServe
// has them (arXiv 2401.09670), on this machine's cores. Each phase has half of the cores, which it
// never lends, and half of the KV cache; a request whose prompt has been read is copied over.
// Weights are shared, which flatters it: on two machines each phase would have its own.
#pragma once

#include <memory>

#include "serve/phase_executor.h"
#include "text/text_model.h"

namespace weft::bench {

struct SplitOptions {
  size_t num_cores = 2;     // at least 2
  size_t kv_tokens = 4096;  // of both pools together
  size_t chunk_tokens = 256;
  size_t max_running = 64;
};

struct SplitCosts {
  uint64_t requests = 0, bytes = 0;
  double seconds = 0;  // of copying
};

class SplitExecutor : public serve::PhaseExecutor {
 public:
  virtual SplitCosts copied() const = 0;
};

// `model` outlives it. compute() is kUnsupported.
std::unique_ptr<SplitExecutor> make_split_executor(const text::TextModel& model,
                                                   const SplitOptions& options);

}  // namespace weft::bench
