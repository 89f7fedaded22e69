#include "text/expert_stream/expert_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace weft::text {
namespace {

constexpr float kHalfLife = 16;  // passes of a group, about as many tokens

float decay_of(uint64_t passes) {
  static const auto decays = [] {
    std::array<float, 512> table{};
    for (size_t i = 0; i < table.size(); ++i)
      table[i] = std::exp2(-static_cast<float>(i) / kHalfLife);
    return table;
  }();
  return passes < decays.size() ? decays[passes] : 0;
}

constexpr float kRarest = 1e-3f;  // a frequency below this counts as this

constexpr std::array<std::string_view, 4> kNames = {"expected", "lru", "lfu", "least-stale"};

}  // namespace

ExpertPolicy parse_expert_policy(std::string_view name) {
  const auto it = std::find(kNames.begin(), kNames.end(), name);
  if (it == kNames.end())
    fail(ErrorKind::kInvalidInput,
         "'{}' is no policy for experts. Known are expected, lru, lfu, least-stale.", name);
  return static_cast<ExpertPolicy>(it - kNames.begin());
}

const char* name(ExpertPolicy policy) { return kNames[static_cast<size_t>(policy)].data(); }

ExpertCache::ExpertCache(const ExpertCacheShape& shape, size_t num_slots, ExpertPolicy policy)
    : shape_(shape),
      policy_(policy),
      slot_of_(shape.num_experts(), kNone),
      key_in_(num_slots, kNone),
      history_(shape.num_experts()),
      group_passes_(shape.num_groups, 0),
      last_layer_(shape.num_groups, SIZE_MAX) {
  WEFT_ASSERT(num_slots != 0);
  for (size_t slot = num_slots; slot-- > 0;) free_.push_back(slot);
}

std::optional<size_t> ExpertCache::slot_of(size_t key) const {
  return slot_of_[key] == kNone ? std::nullopt : std::optional(slot_of_[key]);
}

std::optional<size_t> ExpertCache::key_in(size_t slot) const {
  return key_in_[slot] == kNone ? std::nullopt : std::optional(key_in_[slot]);
}

void ExpertCache::begin_layer(size_t layer) {
  const size_t group = layer / shape_.layers_per_group;
  // A layer that is not after the last one begins another pass.
  if (last_layer_[group] == SIZE_MAX || layer <= last_layer_[group]) {
    learn(group);
    ++group_passes_[group];
  }
  last_layer_[group] = layer;
}

void ExpertCache::use(size_t key, size_t layer) {
  const size_t group = layer / shape_.layers_per_group;
  History& history = history_[key];
  if (history.last_pass != group_passes_[group]) {
    history.frequency = decayed(history, group) + (1 - decay_of(1));
    history.last_pass = group_passes_[group];
  }
  ++history.uses;
  history.last_use = ++now_;
}

float ExpertCache::decayed(const History& history, size_t group) const {
  if (history.last_pass == 0) return 0;
  return history.frequency * decay_of(group_passes_[group] - history.last_pass);
}

// What the group's passes so far say: one that was used in each of them counts 1 from the first on.
float ExpertCache::frequency_now(const History& history, size_t group) const {
  const float seen = 1 - decay_of(group_passes_[group]);
  return seen > 0 ? decayed(history, group) / seen : 0;
}

size_t ExpertCache::kind_of(const History& history, size_t group) const {
  size_t age = kAges - 1;  // never used
  if (history.last_pass != 0) {
    const uint64_t passes = group_passes_[group] - history.last_pass;
    age = std::min<size_t>(kAges - 2, static_cast<size_t>(std::bit_width(passes)));
  }
  const float frequency = frequency_now(history, group);
  size_t rarity = 0;
  for (float bound = 0.5f; rarity + 1 < kFrequencies && frequency < bound; bound /= 2) ++rarity;
  return age * kFrequencies + rarity;
}

void ExpertCache::learn(size_t group) {
  constexpr float kMany = 4096;  // older passes fade
  for (size_t e = 0; e < shape_.experts_per_group; ++e) {
    History& history = history_[group * shape_.experts_per_group + e];
    if (group_passes_[group] != 0) {
      Chance& chance = chances_[history.kind];
      chance.passes += 1;
      if (history.last_pass == group_passes_[group]) chance.uses += 1;
      if (chance.passes >= kMany) chance = {chance.passes / 2, chance.uses / 2};
    }
    history.kind = kind_of(history, group);
  }
}

// Until its kind has been seen often, how often it was used itself.
double ExpertCache::chance(const History& history, size_t group) const {
  constexpr double kTrust = 16;  // passes
  const Chance& seen = chances_[kind_of(history, group)];
  return (seen.uses + kTrust * frequency_now(history, group)) / (seen.passes + kTrust);
}

// Layers until the group's next turn, then as many rounds as its chance makes likely.
double ExpertCache::expected_wait(size_t key, size_t layer) const {
  const size_t group = key / shape_.experts_per_group, n = shape_.num_layers;
  const size_t leader = group * shape_.layers_per_group;
  const size_t end = std::min(leader + shape_.layers_per_group, n);
  size_t distance = (leader + n - layer) % n;
  if (distance == 0) distance = n;
  if (layer >= leader && layer + 1 < end) distance = 1;
  const double likely = std::clamp<double>(chance(history_[key], group), kRarest, 1);
  return static_cast<double>(distance) + static_cast<double>(n) * (1 / likely - 1);
}

double ExpertCache::reason_to_go(size_t key, size_t layer) const {
  const History& history = history_[key];
  const double age = static_cast<double>(now_ - history.last_use);
  switch (policy_) {
    case ExpertPolicy::kExpected:
      return expected_wait(key, layer);
    case ExpertPolicy::kLru:
      return age;
    case ExpertPolicy::kLfu:
      return -static_cast<double>(history.uses);
    case ExpertPolicy::kLeastStale: {
      const bool gone_by = key / shape_.experts_per_group < layer / shape_.layers_per_group;
      return age + (gone_by ? 1e15 : 0);
    }
  }
  return 0;
}

std::optional<size_t> ExpertCache::place(size_t key, size_t layer,
                                         std::span<const uint8_t> may_go) {
  WEFT_ASSERT(slot_of_[key] == kNone);
  size_t chosen = kNone;
  if (!free_.empty()) {
    chosen = free_.back();
    free_.pop_back();
  } else {
    double most = 0;
    for (size_t slot = 0; slot < key_in_.size(); ++slot) {
      if (may_go[slot] == 0) continue;
      const double reason = reason_to_go(key_in_[slot], layer);
      if (chosen == kNone || reason > most) {
        chosen = slot;
        most = reason;
      }
    }
    if (chosen == kNone) return std::nullopt;
    slot_of_[key_in_[chosen]] = kNone;
  }
  key_in_[chosen] = key;
  slot_of_[key] = chosen;
  return chosen;
}

void ExpertCache::forget(size_t slot) {
  WEFT_ASSERT(key_in_[slot] != kNone);
  slot_of_[key_in_[slot]] = kNone;
  key_in_[slot] = kNone;
  free_.push_back(slot);
}

}  // namespace weft::text
