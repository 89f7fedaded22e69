// How long a token takes when experts have to be read: the time model of docs/megrez2.md, beside
// which `weft bench megrez2` puts what it measures.
#pragma once

#include <cstdint>
#include <span>
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

// When the experts of a layer are asked for, and what it does until they come.
enum class ExpertReads : uint8_t {
  kPreGated,  // one layer before; the layer computes with what is there, then its shared expert,
              // then with each that comes
  kOnDemand,  // when the layer asks; then as above
  kNaive,     // when the layer asks, and it begins when all are there
};

// Seconds of all visits of a trace, whose misses are given.
double predict_seconds(std::span<const text::ExpertTrace::Visit> visits,
                       std::span<const uint32_t> misses, const LayerParts& parts,
                       const ReadTimes& read, ExpertReads reads);

}  // namespace weft::bench
