// Amounts of memory as people write them.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace weft {

// Bytes in "4096", "64MiB", "800m", "1.5 GB": K, M, G and T are powers of 1024, with or without "B"
// or "iB", in any case. At least 1 byte and below 2^60; nothing for any other text.
std::optional<size_t> parse_size(std::string_view text);

}  // namespace weft
