#include "base/size_text.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

namespace weft {

std::optional<size_t> parse_size(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
  std::string unit;
  for (const char c : text.substr(static_cast<size_t>(end - text.data())))
    if (c != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  constexpr std::string_view kPrefixes = "kmgt";
  const size_t power = unit.empty() ? std::string_view::npos : kPrefixes.find(unit[0]);
  double factor = 1;
  if (power != std::string_view::npos) {
    factor = std::pow(1024.0, static_cast<double>(power + 1));
    unit.erase(0, 1);
    if (unit == "ib") unit = "b";
  }
  if (!unit.empty() && unit != "b") return std::nullopt;
  const double bytes = value * factor;
  if (!(bytes >= 1 && bytes < 0x1p60)) return std::nullopt;
  return static_cast<size_t>(bytes);
}

}  // namespace weft
