#include "text/grammar/automaton.h"

#include <algorithm>

#include "base/error.h"

namespace weft::text::grammar {
namespace {

uint64_t pair_key(uint32_t a, uint32_t b) { return uint64_t{a} << 32 | b; }

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ hash >> 29;
}

}  // namespace

Automaton::Automaton(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
  nodes_ = {{.first_entry = 0, .num_entries = 0, .depth = 0, .done = false},
            {.first_entry = 0, .num_entries = 0, .depth = 0, .done = true}};
  ascii_of_class_.resize(grammar_->class_of(0x7F) + 1);
  for (uint8_t c = 0; c < 0x80; ++c) ascii_of_class_[grammar_->class_of(c)].push_back(c);
  places_.push_back({.node = kEmpty});
  rows_.push_back(std::make_unique<Row>());
  rows_[kDead]->fill(kDead);
  constexpr size_t kStartBudget = size_t{1} << 20;
  budget_ = kStartBudget;
  done_ = grammar_->rules[grammar_->root].nullable;
  expand(grammar_->root, kBottom);
  start_ = state_of({.node = settle()});
}

bool Automaton::can_end(State state) const {
  const Place& place = places_[state];
  return place.remaining == 0 && nodes_[place.node].done;
}

bool Automaton::can_go_on(State state) const {
  return nodes_[places_[state].node].num_entries != 0;
}

void Automaton::charge(size_t steps) {
  if (budget_ < steps) {
    budget_ = 0;
    fail(ErrorKind::kInvalidInput,
         "the grammar is too ambiguous: too many of its alternatives are open at once. Give them "
         "different beginnings.");
  }
  budget_ -= steps;
}

Automaton::NodeId Automaton::intern(std::span<const Entry> entries, bool done) {
  if (entries.empty()) return done ? kBottom : kEmpty;
  uint64_t hash = done ? 1 : 2;
  for (const Entry& e : entries) hash = mix(hash, pair_key(e.at, e.below));
  const auto [begin, end] = node_ids_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const Node& node = nodes_[it->second];
    if (node.done == done && node.num_entries == entries.size() &&
        std::equal(entries.begin(), entries.end(), entries_.begin() + node.first_entry))
      return it->second;
  }
  charge(entries.size());
  uint32_t depth = 0;
  for (const Entry& e : entries) depth = std::max(depth, nodes_[e.below].depth + 1);
  const auto id = static_cast<NodeId>(nodes_.size());
  nodes_.push_back({.first_entry = static_cast<uint32_t>(entries_.size()),
                    .num_entries = static_cast<uint32_t>(entries.size()),
                    .depth = depth,
                    .done = done});
  entries_.insert(entries_.end(), entries.begin(), entries.end());
  node_ids_.emplace(hash, id);
  return id;
}

// The stacks of both sets. Recursion is as deep as the stacks, at most kMaxDepth.
Automaton::NodeId Automaton::merge(NodeId a, NodeId b) {
  if (a == b || b == kEmpty) return a;
  if (a == kEmpty) return b;
  if (a > b) std::swap(a, b);
  const uint64_t key = pair_key(a, b);
  if (const auto known = merged_.find(key); known != merged_.end()) return known->second;
  const Node na = nodes_[a], nb = nodes_[b];
  charge(na.num_entries + nb.num_entries);
  std::vector<Entry> entries;
  entries.reserve(na.num_entries + nb.num_entries);
  uint32_t i = na.first_entry, j = nb.first_entry;
  const uint32_t end_i = i + na.num_entries, end_j = j + nb.num_entries;
  while (i < end_i || j < end_j) {
    if (j == end_j || (i < end_i && entries_[i].at < entries_[j].at)) {
      entries.push_back(entries_[i++]);
    } else if (i == end_i || entries_[j].at < entries_[i].at) {
      entries.push_back(entries_[j++]);
    } else {
      const Entry x = entries_[i++], y = entries_[j++];
      entries.push_back({x.at, merge(x.below, y.below)});
    }
  }
  const NodeId id = intern(entries, na.done || nb.done);
  merged_.emplace(key, id);
  return id;
}

// What is left once the element at `at` has been read: none of the stacks if they would be too
// deep.
Automaton::NodeId Automaton::after(uint32_t at, NodeId below) {
  if (grammar_->elements[at + 1] == Grammar::kEnd) return below;  // so loops do not pile up
  if (nodes_[below].depth >= kMaxDepth) return kEmpty;
  const Entry entry{at + 1, below};
  return intern({&entry, 1}, false);
}

// The element at `at` is next, with `below` to do after its alternative.
void Automaton::visit(uint32_t at, NodeId below) {
  if (below != kEmpty && visited_.insert(pair_key(at, below)).second) work_.push_back({at, below});
}

void Automaton::expand(uint32_t rule, NodeId below) {
  if (below == kEmpty) return;
  NodeId& pending = pending_[rule];
  const NodeId all = merge(pending, below);
  if (all == pending) return;
  pending = all;
  queue_.insert({grammar_->rules[rule].order, rule});
}

// Follows work_ and queue_ to the characters that may come next, and gives the set of stacks.
//
// First what goes on after characters that were read, down through the stacks. Then the rules that
// begin here, each once, callers first, with all that is left to do after it: stacks that differ
// below a rule are never looked at one by one. A rule that matches the empty text is stepped over
// as well; its own ways of being empty need not be followed then.
Automaton::NodeId Automaton::settle() {
  const Grammar& g = *grammar_;
  while (!work_.empty()) {
    const auto [at, below] = work_.back();
    work_.pop_back();
    charge(1);
    const Grammar::Element e = g.elements[at];
    if (e == Grammar::kEnd) {
      const Node node = nodes_[below];
      done_ = done_ || node.done;
      charge(node.num_entries);
      for (uint32_t i = 0; i < node.num_entries; ++i) {
        const Entry entry = entries_[node.first_entry + i];
        visit(entry.at, entry.below);
      }
    } else if (!Grammar::is_rule(e)) {
      found_.push_back({at, below});
    } else {
      expand(Grammar::rule_of(e), after(at, below));
      if (g.rules[Grammar::rule_of(e)].nullable) visit(at + 1, below);
    }
  }
  while (!queue_.empty()) {
    const uint32_t id = queue_.begin()->second;
    queue_.erase(queue_.begin());
    const Grammar::Rule& rule = g.rules[id];
    const NodeId below = pending_[id];
    for (uint32_t a = 0; a < rule.num_alternatives; ++a) {
      for (uint32_t at = g.alternatives[rule.first_alternative + a];; ++at) {
        charge(1);
        const Grammar::Element e = g.elements[at];
        if (e == Grammar::kEnd) break;
        if (!Grammar::is_rule(e)) {
          found_.push_back({at, below});
          break;
        }
        expand(Grammar::rule_of(e), after(at, below));
        if (!g.rules[Grammar::rule_of(e)].nullable) break;
      }
    }
  }
  std::sort(found_.begin(), found_.end(),
            [](const Entry& a, const Entry& b) { return a.at < b.at; });
  size_t kept = 0;
  for (size_t i = 0; i < found_.size(); ++i) {
    if (kept != 0 && found_[kept - 1].at == found_[i].at)
      found_[kept - 1].below = merge(found_[kept - 1].below, found_[i].below);
    else
      found_[kept++] = found_[i];
  }
  found_.resize(kept);
  return intern(found_, done_);
}

// The set of stacks after one more character.
Automaton::NodeId Automaton::step(NodeId id, char32_t c) {
  done_ = false;
  work_.clear();
  found_.clear();
  visited_.clear();
  queue_.clear();
  pending_.clear();
  const Node node = nodes_[id];
  charge(node.num_entries);
  for (uint32_t i = 0; i < node.num_entries; ++i) {
    const Entry entry = entries_[node.first_entry + i];
    if (grammar_->sets[grammar_->elements[entry.at]].contains(c)) visit(entry.at + 1, entry.below);
  }
  return settle();
}

bool Automaton::allows(NodeId id, char32_t first, char32_t last) const {
  const Node& node = nodes_[id];
  for (uint32_t i = 0; i < node.num_entries; ++i) {
    const uint32_t at = entries_[node.first_entry + i].at;
    if (grammar_->sets[grammar_->elements[at]].intersects(first, last)) return true;
  }
  return false;
}

Automaton::State Automaton::state_of(const Place& place) {
  if (place.node == kEmpty) return kDead;
  const uint64_t key =
      uint64_t{place.node} << 32 | uint64_t{place.remaining} << 24 | uint64_t{place.first};
  if (const auto known = state_ids_.find(key); known != state_ids_.end()) return known->second;
  constexpr size_t kStateSteps = 64;  // so that a budget bounds the memory of the rows as well
  charge(kStateSteps);
  const auto state = static_cast<State>(rows_.size());
  places_.push_back(place);
  rows_.push_back(std::make_unique<Row>());
  rows_.back()->fill(kUnknown);
  state_ids_.emplace(key, state);
  return state;
}

// Within a character that will be one of first..last. If the grammar does not tell these apart,
// another such range of the class stands for them all: the states of a string that takes any
// character are then a handful, and not one for each beginning of a character.
Automaton::State Automaton::within(NodeId node, char32_t first, char32_t last, uint32_t remaining) {
  const bool whole = last - first + 1 == char32_t{1} << 6 * remaining;
  const size_t char_class = grammar_->class_of(first);
  if (whole && char_class == grammar_->class_of(last)) {
    const uint64_t key = pair_key(static_cast<uint32_t>(char_class), remaining);
    first = representatives_.try_emplace(key, first).first->second;
    last = first + (char32_t{1} << 6 * remaining) - 1;
  }
  if (!allows(node, first, last)) return kDead;
  return state_of({.node = node, .remaining = remaining, .first = first, .last = last});
}

Automaton::State Automaton::find_next(State from, uint8_t byte) {
  const Place place = places_[from];
  Row& row = *rows_[from];
  if (place.remaining == 0 && byte < 0x80) {
    const State to = state_of({.node = step(place.node, byte)});
    for (const uint8_t c : ascii_of_class_[grammar_->class_of(byte)]) row[c] = to;
    return to;
  }
  State to = kDead;
  const bool continues = (byte & 0xC0) == 0x80;
  if (place.remaining == 0) {
    // Ranges as Unicode's table 3-7 has them; surrogates are in no set.
    if (byte >= 0xC2 && byte <= 0xDF) {
      const char32_t first = char32_t{byte & 0x1Fu} << 6;
      to = within(place.node, first, first + 0x3F, 1);
    } else if (byte >= 0xE0 && byte <= 0xEF) {
      const char32_t first = char32_t{byte & 0x0Fu} << 12;
      to = within(place.node, std::max<char32_t>(first, 0x800), first + 0xFFF, 2);
    } else if (byte >= 0xF0 && byte <= 0xF4) {
      const char32_t first = char32_t{byte & 0x07u} << 18;
      to = within(place.node, std::max<char32_t>(first, 0x10000),
                  std::min<char32_t>(first + 0x3FFFF, kLastChar), 3);
    }
  } else if (continues) {
    const uint32_t remaining = place.remaining - 1;
    const char32_t width = char32_t{1} << 6 * remaining;
    const char32_t begin = place.first & ~((width << 6) - 1);  // of all 64 continuations
    const char32_t first = begin + char32_t{byte & 0x3Fu} * width, last = first + width - 1;
    if (first >= place.first && last <= place.last) {
      to = remaining != 0 ? within(place.node, first, last, remaining)
                          : state_of({.node = step(place.node, first)});
      const bool alike = place.last - place.first + 1 == width << 6 &&
                         grammar_->class_of(place.first) == grammar_->class_of(place.last);
      if (alike)
        for (size_t other = 0x80; other < 0xC0; ++other) row[other] = to;
    }
  }
  row[byte] = to;
  return to;
}

size_t Automaton::bytes() const {
  constexpr size_t kMapEntry = 48;  // of a node-based map, roughly
  return nodes_.size() * (sizeof(Node) + kMapEntry) + entries_.size() * sizeof(Entry) +
         merged_.size() * kMapEntry + rows_.size() * (sizeof(Row) + sizeof(Place) + kMapEntry);
}

Automaton::State Automaton::import(const Automaton& other, State state) {
  std::unordered_map<NodeId, NodeId> copies = {{kEmpty, kEmpty}, {kBottom, kBottom}};
  const Place place = other.places_[state];
  std::vector<NodeId> open = {place.node};
  while (!open.empty()) {
    const NodeId id = open.back();
    const Node& node = other.nodes_[id];
    std::vector<Entry> entries(other.entries_.begin() + node.first_entry,
                               other.entries_.begin() + node.first_entry + node.num_entries);
    const size_t open_before = open.size();
    for (Entry& e : entries) {
      const auto copy = copies.find(e.below);
      if (copy == copies.end())
        open.push_back(e.below);
      else
        e.below = copy->second;
    }
    if (open.size() != open_before) continue;  // those below come first
    open.pop_back();
    if (!copies.contains(id)) copies.emplace(id, intern(entries, node.done));
  }
  Place copy = place;
  copy.node = copies.at(place.node);
  return copy.remaining == 0 ? state_of(copy)
                             : within(copy.node, copy.first, copy.last, copy.remaining);
}

}  // namespace weft::text::grammar
