// Tokens to a tree, by recursive descent over jinja2's grammar.
#pragma once

#include "formats/jinja/ast.h"

namespace weft::formats::jinja {

// Throws SyntaxError.
Body parse(std::string_view source);

}  // namespace weft::formats::jinja
