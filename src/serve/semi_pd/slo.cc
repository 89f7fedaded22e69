#include "serve/semi_pd/slo.h"

#include <charconv>
#include <cmath>
#include <set>

#include "base/error.h"

namespace weft::serve::semi_pd {
namespace {

std::optional<double> take_number(std::string_view& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

double parse_seconds(std::string_view field, std::string_view text) {
  std::string_view unit = text;
  const auto value = take_number(unit);
  if (!value || (unit != "s" && unit != "ms"))
    fail(ErrorKind::kInvalidInput,
         "--slo {}={}: expected a time with its unit, such as 400ms or 2s", field, text);
  if (!(*value > 0)) fail(ErrorKind::kInvalidInput, "--slo {}={}: must be positive", field, text);
  return unit == "ms" ? *value / 1000 : *value;
}

double parse_percentile(std::string_view text) {
  std::string_view rest = text;
  const auto value = take_number(rest);
  if (!value || !rest.empty() || !(*value > 0 && *value < 1))
    fail(ErrorKind::kInvalidInput, "--slo p={}: expected a share between 0 and 1, such as 0.9",
         text);
  return *value;
}

}  // namespace

Slo parse_slo(std::string_view text) {
  Slo slo;
  std::set<std::string_view> seen;
  while (true) {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const size_t equals = item.find('=');
    const std::string_view field = item.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : item.substr(equals + 1);
    if (!seen.insert(field).second)
      fail(ErrorKind::kInvalidInput, "--slo: '{}' is given twice", field);
    if (field == "ttft") {
      slo.ttft_s = parse_seconds(field, value);
    } else if (field == "tpot") {
      slo.tpot_s = parse_seconds(field, value);
    } else if (field == "p") {
      slo.percentile = parse_percentile(value);
    } else {
      fail(ErrorKind::kInvalidInput,
           "--slo: '{}' is not ttft=TIME, tpot=TIME or p=SHARE, such as ttft=400ms,tpot=50ms,p=0.9",
           item);
    }
    if (comma == std::string_view::npos) return slo;
    text.remove_prefix(comma + 1);
  }
}

std::string to_string(const Slo& slo) {
  std::string text;
  if (slo.ttft_s) text += fmt::format("ttft={}ms,", *slo.ttft_s * 1000);
  if (slo.tpot_s) text += fmt::format("tpot={}ms,", *slo.tpot_s * 1000);
  return text + fmt::format("p={}", slo.percentile);
}

SloTargets targets(const Slo& slo, double unloaded_ttft_s, double unloaded_tpot_s) {
  constexpr double kLoose = 10;
  return {.ttft_s = slo.ttft_s.value_or(kLoose * unloaded_ttft_s),
          .tpot_s = slo.tpot_s.value_or(kLoose * unloaded_tpot_s),
          .percentile = slo.percentile};
}

}  // namespace weft::serve::semi_pd
