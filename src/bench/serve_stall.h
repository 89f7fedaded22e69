#pragma once

#include "bench/serve_systems.h"

namespace weft::bench {

// Eight answers run when a prompt of 2,048 tokens (512 if quick) arrives: adds a table of the longest
// gap that they see under each system, beside the usual and the longest one without it (what the
// machine itself does to them). Adds the one that bounds stalls. Gives the smallest ratio to the usual
// gap.
double bench_stall(ServeSetting& setting, const std::vector<System>& systems, const Slo& slo,
                   Report& report);

}  // namespace weft::bench
