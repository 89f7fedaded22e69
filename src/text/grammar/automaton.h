// A grammar as an automaton over the bytes of UTF-8 that is built as far as texts reach.
//
// After a text, the grammar is in a set of stacks: what may come next, and what then is left to do.
// The sets are kept as minimal acyclic automata over stacks that share all their nodes, so that the
// same set has the same number however it came about, and a set of exponentially many stacks takes
// little room. Steps from such a state are remembered, by byte: walking known ground is a look into
// a table.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "text/grammar/grammar.h"

namespace weft::text::grammar {

// Not thread-safe. Errors are kInvalidInput and leave it as it was: the grammar is so ambiguous
// that a step would take more work than the budget.
class Automaton {
 public:
  using State = uint32_t;
  static constexpr State kDead = 0;          // no sentence begins like this
  static constexpr size_t kMaxDepth = 2048;  // of nested rules; what is deeper is not allowed

  explicit Automaton(std::shared_ptr<const Grammar> grammar);

  State start() const { return start_; }
  State next(State state, uint8_t byte) {
    const State known = (*rows_[state])[byte];
    return known != kUnknown ? known : find_next(state, byte);
  }
  bool can_end(State state) const;
  bool can_go_on(State state) const;  // something may follow

  // Of the calls that follow, all together: stacks that are looked at; a new state counts as many.
  void set_budget(size_t steps) { budget_ = steps; }

  size_t bytes() const;  // memory in use, roughly
  // The state of another automaton of the same grammar.
  State import(const Automaton& other, State state);

 private:
  static constexpr State kUnknown = UINT32_MAX;
  using NodeId = uint32_t;
  static constexpr NodeId kEmpty = 0, kBottom = 1;  // no stack; the one stack that is done

  // A set of stacks: whether the empty one is among them, and for each element that can be on top
  // (sorted) the set of what can be below.
  struct Entry {
    uint32_t at;  // in the grammar's elements
    NodeId below;
    bool operator==(const Entry&) const = default;
  };
  struct Node {
    uint32_t first_entry, num_entries;
    uint32_t depth;
    bool done;
  };
  // Between characters `remaining` is 0. Within one, so many bytes are missing, and the character
  // is one of first..last.
  struct Place {
    NodeId node;
    uint32_t remaining = 0;
    char32_t first = 0, last = 0;
  };
  using Row = std::array<State, 256>;

  NodeId intern(std::span<const Entry> entries, bool done);  // sorted
  NodeId push(uint32_t at, NodeId below);
  NodeId merge(NodeId a, NodeId b);
  NodeId after(uint32_t at, NodeId below);
  void visit(uint32_t at, NodeId below);
  void expand(uint32_t rule, NodeId below);
  NodeId settle();
  NodeId step(NodeId node, char32_t c);
  State state_of(const Place& place);
  State within(NodeId node, char32_t first, char32_t last, uint32_t remaining);
  State find_next(State state, uint8_t byte);
  bool allows(NodeId node, char32_t first, char32_t last) const;
  void charge(size_t steps);

  std::shared_ptr<const Grammar> grammar_;
  size_t budget_ = SIZE_MAX;

  std::vector<Node> nodes_;
  std::vector<Entry> entries_;
  std::unordered_multimap<uint64_t, NodeId> node_ids_;  // by hash
  std::unordered_map<uint64_t, NodeId> merged_;         // by the pair, the lower first

  std::vector<Place> places_;  // of each state
  std::vector<std::unique_ptr<Row>> rows_;
  std::unordered_map<uint64_t, State> state_ids_;
  std::unordered_map<uint64_t, char32_t> representatives_;  // (class, remaining) -> first
  std::vector<std::vector<uint8_t>> ascii_of_class_;
  State start_ = kDead;

  // Of one step.
  bool done_ = false;
  std::vector<Entry> work_, found_;
  std::unordered_set<uint64_t> visited_;
  std::set<std::pair<uint32_t, uint32_t>> queue_;  // (order, rule)
  std::unordered_map<uint32_t, NodeId> pending_;   // rule -> what is left to do after it
};

}  // namespace weft::text::grammar
