// Which experts are in which slots, and which leaves when another comes. Holds no bytes and starts
// no reads: ExpertStream does, and ExpertTrace replays with the same class what it decided.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

enum class ExpertPolicy : uint8_t {
  kExpected,    // whose next use is expected the longest from now, by what has become of experts
                // that were used as often and as long ago
  kLru,         // used the longest ago
  kLfu,         // used the fewest times
  kLeastStale,  // those that the pass has gone by first (arXiv 2602.03921), the longest ago among
                // them
};
ExpertPolicy parse_expert_policy(std::string_view name);  // kInvalidInput lists them
const char* name(ExpertPolicy policy);

struct ExpertCacheShape {
  size_t num_layers = 0, layers_per_group = 1, num_groups = 0, experts_per_group = 0;

  size_t num_experts() const { return num_groups * experts_per_group; }
  size_t key(size_t layer, size_t expert) const {  // of an expert, as a layer sees it
    return layer / layers_per_group * experts_per_group + expert;
  }
};

class ExpertCache {
 public:
  ExpertCache(const ExpertCacheShape& shape, size_t num_slots, ExpertPolicy policy);

  size_t num_slots() const { return key_in_.size(); }
  std::optional<size_t> slot_of(size_t key) const;
  std::optional<size_t> key_in(size_t slot) const;

  // A layer of a pass asks, once, for these experts: what the policies go by.
  void begin_layer(size_t layer);
  void use(size_t key, size_t layer);
  // A slot for the expert, free or taken from one whose slot may go, or none. `layer`: which asks.
  std::optional<size_t> place(size_t key, size_t layer, std::span<const uint8_t> may_go);
  void forget(size_t slot);  // its expert could not be read

 private:
  struct History {
    float frequency = 0;     // of the group's passes, how many used it; decays with kHalfLife
    uint64_t last_pass = 0;  // of the group's, that used it; 0: none
    uint64_t last_use = 0, uses = 0;
    size_t kind = 0;  // when the group's last pass began
  };
  // Of experts of one kind: in how many passes one might have been used, and was.
  struct Chance {
    float passes = 0, uses = 0;
  };
  static constexpr size_t kAges = 9, kFrequencies = 6;
  static constexpr size_t kNone = SIZE_MAX;
  float decayed(const History& history, size_t group) const;
  float frequency_now(const History& history, size_t group) const;
  size_t kind_of(const History& history, size_t group) const;  // by age and frequency
  void learn(size_t group);  // what its last pass used, as another begins
  // That the group's next pass uses it.
  double chance(const History& history, size_t group) const;
  double expected_wait(size_t key, size_t layer) const;
  // The larger, the sooner it goes.
  double reason_to_go(size_t key, size_t layer) const;

  ExpertCacheShape shape_;
  ExpertPolicy policy_;
  std::vector<size_t> slot_of_;  // by key
  std::vector<size_t> key_in_;   // by slot
  std::vector<size_t> free_;
  std::vector<History> history_;  // by key
  std::array<Chance, kAges * kFrequencies> chances_{};
  std::vector<uint64_t> group_passes_;  // how often a group has been gone through
  std::vector<size_t> last_layer_;      // of a group, that asked
  uint64_t now_ = 0;
};

}  // namespace weft::text
