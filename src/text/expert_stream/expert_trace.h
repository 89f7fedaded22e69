// What a model's layers asked for, token after token, and what any number of slots and any policy
// would have made of it: the same decisions as a stream's, replayed without reading anything, and
// the best that there could have been.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "text/expert_stream/expert_cache.h"

namespace weft::text {

struct ExpertTrace {
  struct Visit {
    size_t layer = 0;
    std::vector<uint32_t> experts;  // the heaviest first
  };
  ExpertCacheShape shape;
  std::vector<Visit> visits;  // in the order of the passes and their layers
};

struct ReplayCounts {
  uint64_t hits = 0, misses = 0;
  std::vector<uint32_t> misses_of;  // by visit

  double hit_rate() const {
    return hits + misses == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(hits + misses);
  }
};

// `prefetch`: a layer's experts are asked for while those of the layer before are held. Visits of
// more experts than there are slots count what a stream would read. kInvalidInput for slots that
// two layers' experts do not fit into.
ReplayCounts replay(const ExpertTrace& trace, size_t num_slots, ExpertPolicy policy, bool prefetch);
// Belady's: whoever is wanted the farthest ahead goes.
ReplayCounts replay_optimum(const ExpertTrace& trace, size_t num_slots, bool prefetch);

// How much a group's layers agree with each other and a layer with itself at the token before: the
// mean share of a visit's experts that the other visit asked for too. The passes are of one token
// each.
struct TraceOverlap {
  double within_group = 0, between_tokens = 0, by_chance = 0;
};
TraceOverlap overlap_of(const ExpertTrace& trace);

}  // namespace weft::text
