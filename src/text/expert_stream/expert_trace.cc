#include "text/expert_stream/expert_trace.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>

#include "base/error.h"

namespace weft::text {
namespace {

using Visit = ExpertTrace::Visit;

// Goes through a trace as a stream does. A store has: begin(visit index), slot_of(key), use(key,
// layer) and place(key, layer, may_go).
template <typename Store>
ReplayCounts walk(const ExpertTrace& trace, size_t num_slots, bool prefetch, Store&& store) {
  ReplayCounts counts;
  counts.misses_of.assign(trace.visits.size(), 0);
  std::vector<uint8_t> may_go(num_slots, 0);
  std::vector<size_t> holds(num_slots, 0);
  std::vector<std::vector<size_t>> held(trace.visits.size());
  const auto ask = [&](size_t index) {
    const Visit& visit = trace.visits[index];
    store.begin(index);
    for (const uint32_t expert : visit.experts) {
      const size_t key = trace.shape.key(visit.layer, expert);
      store.use(key, visit.layer);
      std::optional<size_t> slot = store.slot_of(key);
      ++(slot ? counts.hits : counts.misses);
      if (!slot) {
        ++counts.misses_of[index];
        slot = store.place(key, visit.layer, may_go);
        if (!slot)
          fail(ErrorKind::kInvalidInput,
               "{} slots do not hold the {} experts of a layer and those of the next", num_slots,
               visit.experts.size());
      }
      ++holds[*slot];
      may_go[*slot] = 0;
      held[index].push_back(*slot);
    }
  };
  const auto release = [&](size_t index) {
    for (const size_t slot : held[index])
      if (--holds[slot] == 0) may_go[slot] = 1;
  };
  const auto follows = [&](size_t index) {  // in the same pass
    return index + 1 < trace.visits.size() &&
           trace.visits[index + 1].layer == trace.visits[index].layer + 1;
  };
  bool asked = false;
  for (size_t i = 0; i < trace.visits.size(); ++i) {
    if (!asked) ask(i);
    asked = prefetch && follows(i);
    if (asked) ask(i + 1);
    release(i);
  }
  return counts;
}

struct CacheStore {
  const ExpertTrace& trace;
  ExpertCache cache;

  void begin(size_t index) { cache.begin_layer(trace.visits[index].layer); }
  void use(size_t key, size_t layer) { cache.use(key, layer); }
  std::optional<size_t> slot_of(size_t key) const { return cache.slot_of(key); }
  std::optional<size_t> place(size_t key, size_t layer, std::span<const uint8_t> may_go) {
    return cache.place(key, layer, may_go);
  }
};

// Knows when each expert is asked for next.
class OptimalStore {
 public:
  OptimalStore(const ExpertTrace& trace, size_t num_slots)
      : key_in_(num_slots, kNone), slot_of_(trace.shape.num_experts(), kNone) {
    uses_.resize(trace.shape.num_experts());
    for (size_t i = 0; i < trace.visits.size(); ++i)
      for (const uint32_t expert : trace.visits[i].experts)
        uses_[trace.shape.key(trace.visits[i].layer, expert)].push_back(i);
    done_.assign(trace.shape.num_experts(), 0);
  }

  void begin(size_t) {}
  void use(size_t key, size_t) { ++done_[key]; }
  std::optional<size_t> slot_of(size_t key) const {
    return slot_of_[key] == kNone ? std::nullopt : std::optional(slot_of_[key]);
  }
  std::optional<size_t> place(size_t key, size_t, std::span<const uint8_t> may_go) {
    size_t chosen = kNone, farthest = 0;
    for (size_t slot = 0; slot < key_in_.size(); ++slot) {
      if (key_in_[slot] == kNone) {
        chosen = slot;
        break;
      }
      if (may_go[slot] == 0) continue;
      const size_t next = next_use(key_in_[slot]);
      if (chosen == kNone || next > farthest) {
        chosen = slot;
        farthest = next;
      }
    }
    if (chosen == kNone) return std::nullopt;
    if (key_in_[chosen] != kNone) slot_of_[key_in_[chosen]] = kNone;
    key_in_[chosen] = key;
    slot_of_[key] = chosen;
    return chosen;
  }

 private:
  static constexpr size_t kNone = SIZE_MAX;
  size_t next_use(size_t key) const {
    return done_[key] < uses_[key].size() ? uses_[key][done_[key]] : SIZE_MAX - 1;
  }
  std::vector<size_t> key_in_, slot_of_;
  std::vector<std::vector<size_t>> uses_;  // by key: visits that ask for it
  std::vector<size_t> done_;               // of them, so many are over
};

double shared_part(const Visit& a, const Visit& b) {
  size_t both = 0;
  for (const uint32_t expert : a.experts)
    both += static_cast<size_t>(std::count(b.experts.begin(), b.experts.end(), expert));
  return static_cast<double>(both) / static_cast<double>(a.experts.size());
}

}  // namespace

ReplayCounts replay(const ExpertTrace& trace, size_t num_slots, ExpertPolicy policy,
                    bool prefetch) {
  return walk(trace, num_slots, prefetch,
              CacheStore{trace, ExpertCache(trace.shape, num_slots, policy)});
}

ReplayCounts replay_optimum(const ExpertTrace& trace, size_t num_slots, bool prefetch) {
  return walk(trace, num_slots, prefetch, OptimalStore(trace, num_slots));
}

std::vector<LayerUse> layer_uses(const ExpertTrace& trace) {
  struct Sum {
    double value = 0;
    size_t count = 0;
    double mean() const { return count == 0 ? 0 : value / static_cast<double>(count); }
    void add(double x) { value += x, ++count; }
  };
  const size_t layers = trace.shape.num_layers, experts = trace.shape.experts_per_group;
  std::vector<std::vector<size_t>> loads(layers, std::vector<size_t>(experts));
  std::vector<Sum> layer_before(layers), token_before(layers);
  for (size_t i = 0; i < trace.visits.size(); ++i) {
    const Visit& visit = trace.visits[i];
    for (const uint32_t expert : visit.experts) ++loads[visit.layer][expert];
    if (i > 0 && visit.layer % trace.shape.layers_per_group != 0 &&
        trace.visits[i - 1].layer + 1 == visit.layer)
      layer_before[visit.layer].add(shared_part(visit, trace.visits[i - 1]));
    if (i >= layers && trace.visits[i - layers].layer == visit.layer)
      token_before[visit.layer].add(shared_part(visit, trace.visits[i - layers]));
  }
  std::vector<LayerUse> out(layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    const auto [least, most] = std::minmax_element(loads[layer].begin(), loads[layer].end());
    const double mean = std::accumulate(loads[layer].begin(), loads[layer].end(), 0.0) /
                        static_cast<double>(experts);
    if (mean > 0) {
      out[layer].fullest = static_cast<double>(*most) / mean;
      out[layer].emptiest = static_cast<double>(*least) / mean;
    }
    if (layer_before[layer].count != 0) out[layer].as_layer_before = layer_before[layer].mean();
    out[layer].as_token_before = token_before[layer].mean();
  }
  return out;
}

TraceOverlap overlap_of(const ExpertTrace& trace) {
  TraceOverlap out;
  size_t followers = 0;
  const std::vector<LayerUse> uses = layer_uses(trace);
  for (const LayerUse& use : uses) {
    out.between_tokens += use.as_token_before / static_cast<double>(uses.size());
    if (use.as_layer_before) out.within_group += *use.as_layer_before, ++followers;
  }
  if (followers != 0) out.within_group /= static_cast<double>(followers);
  for (const Visit& visit : trace.visits)
    out.by_chance += static_cast<double>(visit.experts.size()) /
                     static_cast<double>(trace.shape.experts_per_group * trace.visits.size());
  return out;
}

}  // namespace weft::text
