// What a model's layers asked for, token after token, and what any number of slots and any policy
// would have made of it: the same decisions as a stream's, replayed without reading anything, and
// the best that there could have been.
#pragma once

#include <cstdint>
#include <optional>
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

// Of one layer: how unevenly its experts are asked for, and the mean share of a visit's experts
// that the visit before it asked for too, of the layer before in the same group (the first of a
// group has none) and of the same layer at the token before. The passes are of one token each.
struct LayerUse {
  double fullest = 0, emptiest = 0;  // its most and least wanted expert, over the mean
  std::optional<double> as_layer_before{};
  double as_token_before = 0;
};
std::vector<LayerUse> layer_uses(const ExpertTrace& trace);

// The same over all layers, and what it would be by chance.
struct TraceOverlap {
  double within_group = 0, between_tokens = 0, by_chance = 0;
};
TraceOverlap overlap_of(const ExpertTrace& trace);

}  // namespace weft::text
