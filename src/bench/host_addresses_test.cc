#include "bench/host_addresses.h"

#include <gtest/gtest.h>

namespace weft::bench {
namespace {

constexpr uint32_t ip(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return a << 24 | b << 16 | c << 8 | d;
}
constexpr uint32_t kOne = ~uint32_t{0}, k24 = kOne << 8, k16 = kOne << 16;

TEST(host_addresses, are_written_with_dots) {
  EXPECT_EQ(dotted(ip(10, 77, 0, 1)), "10.77.0.1");
  EXPECT_EQ(dotted(~uint32_t{0}), "255.255.255.255");
}

TEST(host_addresses, a_network_of_both) {
  const HostAddress mine[] = {{ip(192, 168, 1, 4), k24}, {ip(10, 77, 0, 1), k16}};
  const HostAddress theirs[] = {{ip(192, 168, 2, 9), k24}, {ip(10, 77, 3, 1), k16}};
  EXPECT_EQ(reachable(mine, theirs), ip(10, 77, 3, 1));
  EXPECT_EQ(reachable(theirs, mine), ip(10, 77, 0, 1));
}

// Hosts of which each pair has a link of its own: no network has two of them.
TEST(host_addresses, the_other_end_of_a_link) {
  const HostAddress mine[] = {{ip(10, 77, 0, 1), kOne},
                              {ip(10, 78, 0, 101), kOne, ip(10, 78, 1, 100)},
                              {ip(10, 78, 0, 102), kOne, ip(10, 78, 2, 100)}};
  const HostAddress theirs[] = {{ip(10, 77, 2, 1), kOne},
                                {ip(10, 78, 2, 101), kOne, ip(10, 78, 1, 102)},
                                {ip(10, 78, 2, 100), kOne, ip(10, 78, 0, 102)}};
  EXPECT_EQ(reachable(mine, theirs), ip(10, 78, 2, 100));
}

// A link is surer than a network, which may only look like one.
TEST(host_addresses, links_go_before_networks) {
  const HostAddress mine[] = {{ip(172, 17, 0, 1), k16},
                              {ip(10, 78, 0, 101), kOne, ip(10, 78, 1, 100)}};
  const HostAddress theirs[] = {{ip(172, 17, 0, 2), k16},
                                {ip(10, 78, 1, 100), kOne, ip(10, 78, 0, 101)}};
  EXPECT_EQ(reachable(mine, theirs), ip(10, 78, 1, 100));
}

TEST(host_addresses, none_that_both_know) {
  const HostAddress mine[] = {{ip(192, 168, 1, 4), k24}};
  EXPECT_EQ(reachable(mine, {}), std::nullopt);
  EXPECT_EQ(reachable({}, mine), std::nullopt);
  for (const HostAddress& their :
       {HostAddress{ip(192, 168, 2, 4), k24}, HostAddress{ip(192, 168, 1, 5), k16},
        HostAddress{ip(192, 168, 1, 5), kOne}})
    EXPECT_EQ(reachable(mine, {&their, 1}), std::nullopt) << dotted(their.address);
  // Both have a bridge of the same address, each its own.
  EXPECT_EQ(reachable(mine, mine), std::nullopt);
  EXPECT_EQ(routed(mine, mine), std::nullopt);
}

// Of this machine, whatever it has.
TEST(host_addresses, own_ones_have_networks) {
  for (const HostAddress& own : own_addresses()) {
    EXPECT_NE(own.address, 0u);
    EXPECT_NE(own.address >> 24, 127u);
    EXPECT_NE(own.mask, 0u) << dotted(own.address);
    EXPECT_NE(own.peer, own.address);
  }
}

}  // namespace
}  // namespace weft::bench
