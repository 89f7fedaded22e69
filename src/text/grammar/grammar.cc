#include "text/grammar/grammar.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::text::grammar {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

using Alternatives = std::vector<Sequence>;
using Rules = std::vector<Alternatives>;

// The rules of which every alternative's symbols count down to none: `counts(symbol)` are those
// that have to be found first. Finds what can end (characters count as found) and what can be empty
// (characters never are).
std::vector<char> find_closed(const Rules& rules, bool chars_count_as_found,
                              const std::vector<CharSet>& sets) {
  struct Open {
    uint32_t rule;
    size_t missing = 0;
  };
  std::vector<Open> open;
  std::vector<std::vector<uint32_t>> users(rules.size());  // alternatives that wait for the rule
  std::vector<char> found(rules.size(), 0);
  std::vector<uint32_t> ready;
  const auto find = [&](uint32_t rule) {
    if (found[rule] != 0) return;
    found[rule] = 1;
    ready.push_back(rule);
  };
  for (uint32_t r = 0; r < rules.size(); ++r) {
    for (const Sequence& sequence : rules[r]) {
      const bool possible = std::all_of(sequence.begin(), sequence.end(), [&](Symbol s) {
        return s.is_rule || (chars_count_as_found && !sets[s.index].empty());
      });
      if (!possible) continue;
      const auto id = static_cast<uint32_t>(open.size());
      open.push_back({r});
      for (const Symbol s : sequence) {
        if (!s.is_rule) continue;
        ++open[id].missing;
        users[s.index].push_back(id);
      }
      if (open[id].missing == 0) find(r);
    }
  }
  while (!ready.empty()) {
    const uint32_t rule = ready.back();
    ready.pop_back();
    for (const uint32_t id : users[rule])
      if (--open[id].missing == 0) find(open[id].rule);
  }
  return found;
}

// Drops alternatives that never end.
void drop_endless(Rules& rules, const std::vector<CharSet>& sets) {
  const std::vector<char> ends = find_closed(rules, true, sets);
  for (Alternatives& alternatives : rules)
    std::erase_if(alternatives, [&](const Sequence& sequence) {
      return std::any_of(sequence.begin(), sequence.end(), [&](Symbol s) {
        return s.is_rule ? ends[s.index] == 0 : sets[s.index].empty();
      });
    });
}

// The rules in use, from the root on; the others' ids are kNone.
std::vector<uint32_t> number_reachable(const Rules& rules, uint32_t root,
                                       std::vector<uint32_t>& order) {
  std::vector<uint32_t> ids(rules.size(), kNone);
  order = {root};
  ids[root] = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    for (const Sequence& sequence : rules[order[i]]) {
      for (const Symbol s : sequence) {
        if (!s.is_rule || ids[s.index] != kNone) continue;
        ids[s.index] = static_cast<uint32_t>(order.size());
        order.push_back(s.index);
      }
    }
  }
  return ids;
}

// What a rule can begin with, as the matcher expands it: `grows` unless the other rule ends the
// alternative, for then nothing is left to come back to.
struct LeftEdge {
  uint32_t to;
  bool grows;
};

std::vector<std::vector<LeftEdge>> left_edges(const Grammar& grammar) {
  std::vector<std::vector<LeftEdge>> edges(grammar.rules.size());
  for (size_t r = 0; r < grammar.rules.size(); ++r) {
    const Grammar::Rule& rule = grammar.rules[r];
    for (uint32_t a = 0; a < rule.num_alternatives; ++a) {
      for (uint32_t at = grammar.alternatives[rule.first_alternative + a];; ++at) {
        const Grammar::Element e = grammar.elements[at];
        if (!Grammar::is_rule(e)) break;
        const uint32_t to = Grammar::rule_of(e);
        edges[r].push_back({to, grammar.elements[at + 1] != Grammar::kEnd});
        if (!grammar.rules[to].nullable) break;
      }
    }
  }
  return edges;
}

// Tarjan's strongly connected components, without recursion. They come callees first.
std::vector<uint32_t> components(const std::vector<std::vector<LeftEdge>>& edges) {
  const size_t count = edges.size();
  std::vector<uint32_t> index(count, kNone), low(count, 0), component(count, kNone), stack;
  struct Visit {
    uint32_t rule;
    size_t next_edge = 0;
  };
  std::vector<Visit> visits;
  uint32_t next_index = 0, next_component = 0;
  const auto enter = [&](uint32_t rule) {
    index[rule] = low[rule] = next_index++;
    stack.push_back(rule);
    visits.push_back({rule});
  };
  for (uint32_t start = 0; start < count; ++start) {
    if (index[start] != kNone) continue;
    enter(start);
    while (!visits.empty()) {
      const uint32_t rule = visits.back().rule;
      if (visits.back().next_edge < edges[rule].size()) {
        const uint32_t to = edges[rule][visits.back().next_edge++].to;
        if (index[to] == kNone)
          enter(to);
        else if (component[to] == kNone)
          low[rule] = std::min(low[rule], index[to]);
        continue;
      }
      visits.pop_back();
      if (!visits.empty()) low[visits.back().rule] = std::min(low[visits.back().rule], low[rule]);
      if (low[rule] != index[rule]) continue;
      while (component[rule] == kNone) {
        component[stack.back()] = next_component;
        stack.pop_back();
      }
      ++next_component;
    }
  }
  for (uint32_t& c : component) c = next_component - 1 - c;  // callers first
  return component;
}

void find_class_starts(Grammar& grammar) {
  // Surrogates apart, so that no class holds some of them and characters as well.
  std::vector<char32_t>& starts = grammar.class_starts;
  starts = {0, kFirstSurrogate, kLastSurrogate + 1};
  for (const CharSet& set : grammar.sets) {
    for (const CharRange& r : set.ranges()) {
      starts.push_back(r.first);
      starts.push_back(r.last + 1);
    }
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
}

}  // namespace

size_t Grammar::class_of(char32_t c) const {
  return static_cast<size_t>(std::upper_bound(class_starts.begin(), class_starts.end(), c) -
                             class_starts.begin());
}

Symbol GrammarBuilder::declare(std::string name) {
  if (rules_.size() >= limits_.max_rules)
    fail(ErrorKind::kInvalidInput, "the grammar is too large: it needs more than {} rules",
         limits_.max_rules);
  rules_.push_back({std::move(name), {}});
  return {static_cast<uint32_t>(rules_.size() - 1), true};
}

void GrammarBuilder::add_alternative(Symbol rule, Sequence sequence) {
  num_elements_ += sequence.size() + 1;
  if (num_elements_ > limits_.max_elements)
    fail(ErrorKind::kInvalidInput,
         "the grammar is too large: it has more than {} elements once its repetitions are written "
         "out",
         limits_.max_elements);
  rules_[rule.index].alternatives.push_back(std::move(sequence));
}

Symbol GrammarBuilder::chars(CharSet set) {
  std::string key(reinterpret_cast<const char*>(set.ranges().data()),
                  set.ranges().size() * sizeof(CharRange));
  const auto [it, is_new] = set_ids_.emplace(std::move(key), static_cast<uint32_t>(sets_.size()));
  if (is_new) sets_.push_back(std::move(set));
  return {it->second, false};
}

Symbol GrammarBuilder::literal(std::string_view utf8) {
  Sequence out;
  for (size_t at = 0; at < utf8.size();) {
    const formats::Utf8Unit unit = formats::read_utf8(utf8, at);
    if (!unit.valid) fail(ErrorKind::kInvalidInput, "the grammar has text that is not valid UTF-8");
    out.push_back(chars(CharSet::single(unit.code)));
    at += unit.length;
  }
  return sequence(std::move(out));
}

Symbol GrammarBuilder::sequence(Sequence sequence) {
  if (sequence.size() == 1) return sequence.front();
  const Symbol rule = declare();
  add_alternative(rule, std::move(sequence));
  return rule;
}

Symbol GrammarBuilder::one_of(const std::vector<Symbol>& choices) {
  if (choices.size() == 1) return choices.front();
  const Symbol rule = declare();
  for (const Symbol choice : choices) add_alternative(rule, {choice});
  return rule;
}

Symbol GrammarBuilder::repeat(Symbol what, size_t min, std::optional<size_t> max) {
  // Checked before anything is allocated for it: each of `max` takes three elements at least.
  if (std::max(min, max.value_or(0)) > limits_.max_elements)
    fail(ErrorKind::kInvalidInput, "the grammar is too large: something is repeated {} times",
         std::max(min, max.value_or(0)));
  Sequence out(min, what);
  if (!max) {
    const Symbol rest = declare();
    add_alternative(rest, {what, rest});
    add_alternative(rest, {});
    out.push_back(rest);
  } else if (*max > min) {
    Symbol rest = declare();
    add_alternative(rest, {what});
    add_alternative(rest, {});
    for (size_t i = min + 1; i < *max; ++i) {
      const Symbol more = declare();
      add_alternative(more, {what, rest});
      add_alternative(more, {});
      rest = more;
    }
    out.push_back(rest);
  }
  return sequence(std::move(out));
}

Grammar GrammarBuilder::build(Symbol root) {
  if (!root.is_rule) {
    const Symbol rule = declare("root");
    add_alternative(rule, {root});
    root = rule;
  }
  Rules rules;
  rules.reserve(rules_.size());
  for (Rule& rule : rules_) rules.push_back(std::move(rule.alternatives));
  drop_endless(rules, sets_);
  if (rules[root.index].empty())
    fail(ErrorKind::kInvalidInput,
         "the grammar matches no text: what begins with its root never ends");
  const std::vector<char> nullable = find_closed(rules, false, sets_);

  Grammar out;
  out.sets = std::move(sets_);
  std::vector<uint32_t> used;
  const std::vector<uint32_t> ids = number_reachable(rules, root.index, used);
  for (const uint32_t rule : used) {
    out.rules.push_back({.first_alternative = static_cast<uint32_t>(out.alternatives.size()),
                         .num_alternatives = static_cast<uint32_t>(rules[rule].size()),
                         .nullable = nullable[rule] != 0,
                         .order = 0});
    for (const Sequence& sequence : rules[rule]) {
      out.alternatives.push_back(static_cast<uint32_t>(out.elements.size()));
      for (const Symbol s : sequence)
        out.elements.push_back(s.is_rule ? ids[s.index] | Grammar::kRuleBit : s.index);
      out.elements.push_back(Grammar::kEnd);
    }
  }

  const auto edges = left_edges(out);
  const std::vector<uint32_t> component = components(edges);
  for (size_t r = 0; r < edges.size(); ++r) {
    out.rules[r].order = component[r];
    for (const LeftEdge& edge : edges[r]) {
      if (!edge.grows || component[edge.to] != component[r]) continue;
      std::string name = rules_[used[r]].name;
      if (name.empty()) name = rules_[used[edge.to]].name;
      fail(ErrorKind::kInvalidInput,
           "the grammar is left-recursive{}: a rule begins with itself. Write a repetition "
           "instead, such as  sum ::= term (\"+\" term)*",
           name.empty() ? "" : " at '" + name + "'");
    }
  }
  find_class_starts(out);
  return out;
}

}  // namespace weft::text::grammar
