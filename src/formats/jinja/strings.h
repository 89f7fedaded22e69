// Python's str methods on UTF-8. Positions and lengths count characters, as in Python; bytes that
// are no UTF-8 count as one character per invalid unit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/jinja/budget.h"

namespace weft::formats::jinja {

std::vector<std::string_view> characters(std::string_view text);
size_t length(std::string_view text);

// Case mappings are the one-to-one ones of Latin, Greek and Cyrillic.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
bool is_upper(std::string_view text);  // has cased characters, none of them lower case
bool is_lower(std::string_view text);

enum class Side { kLeft, kRight, kBoth };
std::string_view strip(std::string_view text, Side side);
// Strips the characters of `set`.
std::string_view strip(std::string_view text, std::string_view set, Side side);

// Without a separator: at runs of white space. `limit` < 0: no limit.
std::vector<std::string_view> split(std::string_view text, int64_t limit, bool from_right);
std::vector<std::string_view> split(std::string_view text, std::string_view separator,
                                    int64_t limit, bool from_right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit, Budget& budget);

// Position in characters, -1 if absent.
int64_t find(std::string_view text, std::string_view what, bool from_right);
int64_t count(std::string_view text, std::string_view what);

}  // namespace weft::formats::jinja
