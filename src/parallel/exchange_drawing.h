// A picture of an exchange: the journey of each piece as a ring of arrows, and the predicted times.
#pragma once

#include <string>
#include <vector>

#include "comm/topology.h"
#include "parallel/exchange_choice.h"

namespace weft::parallel {

// SVG. Of the exchange that best_with_rings() gives, at most 16 pieces are drawn.
std::string to_svg(const comm::Topology& topology, const std::vector<PricedExchange>& priced);

}  // namespace weft::parallel
