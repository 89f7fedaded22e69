// Python's two ways to fill in a template string: "%s" % x and "{}".format(x).
#pragma once

#include <string>
#include <string_view>

#include "formats/jinja/value.h"

namespace weft::formats::jinja {

// `values` is a tuple, a dict (for %(name)s), or one value.
std::string percent_format(std::string_view pattern, const Value& values, Budget& budget);
std::string brace_format(std::string_view pattern, const Arguments& arguments, Budget& budget);

}  // namespace weft::formats::jinja
