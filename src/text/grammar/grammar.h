// A context-free grammar over Unicode characters, checked and laid out for matching: every
// alternative can end, every rule is in use, and none is left-recursive.
//
// GBNF and JSON schemas are both built into it with a GrammarBuilder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/grammar/char_set.h"

namespace weft::text::grammar {

// Immutable, and so thread-safe.
struct Grammar {
  // An element is a set of characters, a rule, or the end of its alternative.
  using Element = uint32_t;
  static constexpr Element kEnd = UINT32_MAX, kRuleBit = 1u << 31;
  static bool is_rule(Element e) { return (e & kRuleBit) != 0 && e != kEnd; }
  static uint32_t rule_of(Element e) { return e & ~kRuleBit; }

  struct Rule {
    uint32_t first_alternative, num_alternatives;
    bool nullable;   // matches the empty text
    uint32_t order;  // lower than that of the rules that it may begin with
  };
  std::vector<CharSet> sets;
  std::vector<Element> elements;       // of all alternatives, each closed by kEnd
  std::vector<uint32_t> alternatives;  // where each begins in `elements`
  std::vector<Rule> rules;
  uint32_t root = 0;
  // Where a class of characters begins that no set tells apart; the first is 0.
  std::vector<char32_t> class_starts;

  size_t class_of(char32_t c) const;
};

// What an alternative is made of: a set of characters or a rule of the builder that made it.
struct Symbol {
  uint32_t index = 0;
  bool is_rule = false;
};
using Sequence = std::vector<Symbol>;

struct GrammarLimits {
  size_t max_elements = size_t{1} << 18;  // repetitions written out
  size_t max_rules = size_t{1} << 18;
};

// Errors are kInvalidInput. One grammar each; not thread-safe.
class GrammarBuilder {
 public:
  explicit GrammarBuilder(GrammarLimits limits = {}) : limits_(limits) {}

  // A rule without alternatives, so that it can be used before it is known. The name is for errors.
  Symbol declare(std::string name = {});
  void add_alternative(Symbol rule, Sequence sequence);

  Symbol chars(CharSet set);
  Symbol literal(std::string_view utf8);
  Symbol sequence(Sequence sequence);
  Symbol one_of(const std::vector<Symbol>& choices);
  Symbol repeat(Symbol what, size_t min, std::optional<size_t> max);
  Symbol optional(Symbol what) { return repeat(what, 0, 1); }

  // Left recursion, or a root that no text ever ends.
  Grammar build(Symbol root);

 private:
  struct Rule {
    std::string name;
    std::vector<Sequence> alternatives;
  };
  GrammarLimits limits_;
  std::vector<Rule> rules_;
  std::vector<CharSet> sets_;
  std::unordered_map<std::string, uint32_t> set_ids_;  // by the bytes of their ranges
  size_t num_elements_ = 0;
};

}  // namespace weft::text::grammar
