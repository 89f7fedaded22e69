// The exchanges that `--exchange` names, for the ranks at hand.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "parallel/exchange.h"

namespace weft::parallel {

// On how many machines ranks are, by the names of their hosts in the ranks' order: two or more if
// each has as many of them, two at least, next to one another; else 1, machines do not matter.
size_t num_nodes(std::span<const std::string> hosts);

// tasp, direct, zigzag, and with several nodes paths. kInvalidInput: there is none of that name.
// kUnsupported: not for so many ranks or nodes.
Exchange exchange_called(const std::string& name, size_t num_ranks, size_t num_nodes);

struct NamedExchange {
  std::string name;
  Exchange exchange;
};
// All that there are for so many ranks and nodes, those with fewer messages first.
std::vector<NamedExchange> named_exchanges(size_t num_ranks, size_t num_nodes);

}  // namespace weft::parallel
