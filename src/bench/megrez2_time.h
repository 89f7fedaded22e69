// How long a token takes when experts have to be read: the time model of docs/megrez2.md, beside
// which `weft bench megrez2` puts what it measures.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/checkpoint.h"
#include "text/expert_stream/expert_trace.h"

namespace weft::bench {

// What the parts of a token's computation take, by the bytes of weights that they read.
struct LayerParts {
  double layer_s = 0;                    // one layer with experts
  double attention_s = 0, shared_s = 0;  // of it: attention and router; the shared expert
  double expert_s = 0;                   // one routed expert
  double rest_s = 0;                     // dense layers and the head, once a token
};
LayerParts layer_parts(const formats::Checkpoint& checkpoint, const text::ExpertTrace& trace,
                       double seconds_per_token);

// What one read of an expert takes.
struct ReadTimes {
  double record_s = 0;   // of a busy disk: one after the other, in the order of asking
  double latency_s = 0;  // of an idle one, from asking to having
  double core_s = 0;     // of the computing cores: to check it, and to let the reader run
};

// Seconds of all visits of a trace, whose misses are given. A layer computes with what is there,
// then its shared expert, then with each that comes. `prefetch`: it asks one layer before.
double predict_seconds(const text::ExpertTrace& trace, const std::vector<uint32_t>& misses,
                       const LayerParts& parts, const ReadTimes& read, bool prefetch);

}  // namespace weft::bench
