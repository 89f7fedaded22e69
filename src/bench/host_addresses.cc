#include "bench/host_addresses.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace weft::bench {
namespace {

uint32_t number_of(const sockaddr* address) {
  if (address == nullptr || address->sa_family != AF_INET) return 0;
  sockaddr_in in{};
  std::memcpy(&in, address, sizeof in);
  return ntohl(in.sin_addr.s_addr);
}

// Another host may have it as well (the bridge of a container program): whoever calls it here meets
// this host.
bool is_mine(std::span<const HostAddress> mine, uint32_t address) {
  return std::any_of(mine.begin(), mine.end(),
                     [&](const HostAddress& own) { return own.address == address; });
}

bool has_route(uint32_t address) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(9);  // any
  to.sin_addr.s_addr = htonl(address);
  const bool found = connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  close(fd);
  return found;
}

}  // namespace

std::vector<HostAddress> own_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> all(first, freeifaddrs);
  std::vector<HostAddress> out;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    const uint32_t address = number_of(at->ifa_addr);
    if (address == 0 || (at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    HostAddress own{.address = address, .mask = number_of(at->ifa_netmask)};
    // An address for one host alone that has another one beside it: the two are a link.
    const uint32_t other = number_of(at->ifa_dstaddr);
    if (own.mask == ~uint32_t{0} && other != address) own.peer = other;
    out.push_back(own);
  }
  return out;
}

std::string dotted(uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 255, address >> 8 & 255,
                     address & 255);
}

std::optional<uint32_t> reachable(std::span<const HostAddress> mine,
                                  std::span<const HostAddress> theirs) {
  for (const HostAddress& their : theirs)
    for (const HostAddress& own : mine)
      if (own.peer != 0 && own.peer == their.address) return their.address;
  for (const HostAddress& their : theirs) {
    if (is_mine(mine, their.address)) continue;
    for (const HostAddress& own : mine)
      if (own.mask != ~uint32_t{0} && own.mask == their.mask &&
          (own.address & own.mask) == (their.address & own.mask))
        return their.address;
  }
  return std::nullopt;
}

std::optional<uint32_t> routed(std::span<const HostAddress> mine,
                               std::span<const HostAddress> theirs) {
  for (const HostAddress& their : theirs)
    if (!is_mine(mine, their.address) && has_route(their.address)) return their.address;
  return std::nullopt;
}

}  // namespace weft::bench
