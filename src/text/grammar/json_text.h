// JSON's parts as rules of a grammar: what schemas are put together from. White space between them
// is bounded, so that an answer cannot run on in blanks: none, a space, or a line break with up to
// 20 blanks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/grammar/grammar.h"

namespace weft::text::grammar {

// Rules are made when first asked for. The builder outlives it. Errors: the builder's.
class JsonText {
 public:
  explicit JsonText(GrammarBuilder& builder) : builder_(builder) {}

  Symbol space();
  Symbol value();  // any
  Symbol object();
  Symbol array();
  Symbol number();
  Symbol integer();  // below 10^18
  // Both ends belong to it, and are taken to be within +-(10^18 - 1).
  Symbol integer_between(int64_t least, int64_t most);
  // Of so many characters, escapes counted as one.
  Symbol string(size_t min_length, std::optional<size_t> max_length);
  // A character of the set as it is written inside a string; controls only if they have an escape
  // of two letters.
  Symbol char_in_string(const CharSet& set);
  // A key that needs no escapes, and is none of these.
  Symbol key_except(const std::vector<std::string>& keys);

  Symbol array_of(const std::vector<Symbol>& first, std::optional<Symbol> rest, size_t min_items,
                  std::optional<size_t> max_items);
  struct Member {
    Symbol key, value;
    bool required;
  };
  // Members in this order; then any number of `more`.
  Symbol object_of(const std::vector<Member>& members, std::optional<Member> more);

 private:
  Symbol text(const char* utf8) { return builder_.literal(utf8); }
  Symbol quoted(Symbol inside);
  Symbol string_char();
  Symbol digits(size_t count);
  Symbol digits_between(const std::string& least, const std::string& most);
  Symbol naturals_between(uint64_t least, uint64_t most);
  Symbol list_tail(Symbol item, size_t min, std::optional<size_t> max);

  GrammarBuilder& builder_;
  std::optional<Symbol> space_, value_, object_, array_, number_, integer_, string_char_;
};

}  // namespace weft::text::grammar
