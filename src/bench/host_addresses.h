// The IPv4 addresses of hosts, and which of another host's this one reaches: for programs that
// ranks start beside them and that want to be told an address.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace weft::bench {

// Of one interface. Plain numbers, the first byte of 10.77.0.1 the highest; sent from rank to rank
// as it is.
struct HostAddress {
  uint32_t address = 0, mask = 0;
  uint32_t peer = 0;  // the other end of a link of two hosts; 0: none
};

std::vector<HostAddress> own_addresses();  // of interfaces that are up, the loopback's apart
std::string dotted(uint32_t address);

// Of `theirs` the one to reach that host by: the other end of a link of ours, or else the first one
// in a network that we are in too. Nothing: no such network.
std::optional<uint32_t> reachable(std::span<const HostAddress> mine,
                                  std::span<const HostAddress> theirs);
// The first of `theirs` that the system knows a way to, by whatever router. Sends nothing.
std::optional<uint32_t> routed(std::span<const HostAddress> mine,
                               std::span<const HostAddress> theirs);

}  // namespace weft::bench
