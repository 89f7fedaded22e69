// Arithmetic, membership and slices, with Python's meaning.
#pragma once

#include <optional>
#include <string_view>

#include "formats/jinja/value.h"

namespace weft::formats::jinja {

// + - * / // % **
Value binary(std::string_view op, const Value& a, const Value& b, Budget& budget);
Value negate(const Value& value);
bool contains(const Value& container, const Value& value, Budget& budget);
// Bounds that are null or None are absent.
Value slice(const Value& value, const Value* begin, const Value* end, const Value* step,
            Budget& budget);
// An index in [0, size), or nothing.
std::optional<size_t> element_index(int64_t index, size_t size);

}  // namespace weft::formats::jinja
