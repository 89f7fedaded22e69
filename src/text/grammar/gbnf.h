// GBNF, llama.cpp's notation for grammars:
//
//   root  ::= "yes" | "no" because?     # a comment
//   because ::= (", because " [a-z ]{1,80}
//                | [^\x00-\x7F]+) "."
//
// Rules (names of letters, digits, '-' and '_'; an answer is what `root` matches), alternatives,
// groups, "text", [classes] and [^their complements], any character (.), ?, *, +, {m}, {m,}, {m,n}.
// Escapes are \n \t \r \" \\ \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH. Lines may break inside of
// parentheses, after ::= and around |.
#pragma once

#include <cstddef>
#include <string_view>

#include "text/grammar/grammar.h"

namespace weft::text::grammar {

struct GbnfLimits {
  size_t max_bytes = size_t{1} << 18;
  size_t max_nesting = 64;  // of parentheses
  GrammarLimits grammar = {};
};

// kInvalidInput with line and column (in bytes, from 1): what is wrong, undefined rules, no root;
// or left recursion, and a grammar beyond the limits.
Grammar parse_gbnf(std::string_view text, const GbnfLimits& limits = {});

}  // namespace weft::text::grammar
