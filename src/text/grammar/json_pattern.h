// A schema's `pattern`: a regular expression as a rule for what stands between a string's quotes.
//
// ECMA's syntax, of which are known: ^ and $ around the whole (both needed: the pattern is of the
// whole string), characters, . , [classes] with ranges and ^, \d \w \s \D \W \S, \n \r \t \f,
// \xHH, \uHHHH, escaped punctuation, groups (...) and (?:...), |, and ? * + {m} {m,} {m,n}.
#pragma once

#include <string_view>

#include "text/grammar/json_text.h"

namespace weft::text::grammar {

// The string with its quotes. kInvalidInput names what is not known, and where.
Symbol add_json_pattern(GrammarBuilder& builder, JsonText& json, std::string_view pattern);

}  // namespace weft::text::grammar
