#include "parallel/exchange_named.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "parallel/tasp/tasp.h"

namespace weft::parallel {

size_t num_nodes(std::span<const std::string> hosts) {
  const auto other = std::find_if(hosts.begin(), hosts.end(),
                                  [&](const std::string& host) { return host != hosts.front(); });
  const auto devices = static_cast<size_t>(other - hosts.begin());
  if (devices < 2 || devices == hosts.size() || hosts.size() % devices != 0) return 1;
  std::set<std::string> seen;
  for (size_t first = 0; first < hosts.size(); first += devices) {
    if (!seen.insert(hosts[first]).second) return 1;
    for (size_t i = 1; i < devices; ++i)
      if (hosts[first + i] != hosts[first]) return 1;
  }
  return hosts.size() / devices;
}

Exchange exchange_called(const std::string& name, size_t num_ranks, size_t num_nodes) {
  if (name == "tasp") return tasp::full_mesh_exchange(num_ranks);
  if (name == "direct") return direct_exchange(num_ranks);
  if (name == "zigzag") return ring_exchange(num_ranks);
  if (name == "paths") {
    if (num_nodes < 2)
      fail(ErrorKind::kUnsupported,
           "the exchange 'paths' is for several hosts with two ranks or more on each, as many on "
           "all of them, one host's ranks after another's. Take tasp or auto.");
    return tasp::nodes_exchange(num_nodes, num_ranks / num_nodes);
  }
  fail(ErrorKind::kInvalidInput,
       "there is no exchange '{}'. Known are tasp, direct, zigzag, paths (for several ranks on each "
       "host), and auto, which tries them.",
       name);
}

std::vector<NamedExchange> named_exchanges(size_t num_ranks, size_t num_nodes) {
  std::vector<NamedExchange> out;
  for (const char* const name : {"zigzag", "paths", "direct", "tasp"}) {
    try {
      out.push_back({name, exchange_called(name, num_ranks, num_nodes)});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
    }
  }
  return out;
}

}  // namespace weft::parallel
