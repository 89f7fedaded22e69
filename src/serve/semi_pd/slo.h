// What users may expect: time to first token and time per later token, and for which share of the
// requests (`--slo ttft=400ms,tpot=50ms,p=0.9`).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace weft::serve::semi_pd {

struct Slo {
  std::optional<double> ttft_s, tpot_s;  // not given: see targets()
  double percentile = 0.9;               // of the requests, in (0, 1)
  bool operator==(const Slo&) const = default;
};

// kInvalidInput names the field: unknown, twice, no unit (s or ms), or not positive.
Slo parse_slo(std::string_view text);
std::string to_string(const Slo& slo);  // what parse_slo() reads

struct SloTargets {
  double ttft_s = 0, tpot_s = 0, percentile = 0.9;
};
// What is not given becomes 10 times what a request alone on the machine takes: the paper's "loose"
// SLO (§6.1; "tight" is 7.5 times).
SloTargets targets(const Slo& slo, double unloaded_ttft_s, double unloaded_tpot_s);

}  // namespace weft::serve::semi_pd
