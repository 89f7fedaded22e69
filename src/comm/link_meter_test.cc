#include "comm/link_meter.h"

#include <gtest/gtest.h>

#include <mutex>

#include "comm/thread_transport.h"
#include "comm/topology.h"

namespace weft::comm {
namespace {

TEST(link_meter, all_ranks_get_the_same_and_it_makes_a_topology) {
  std::mutex mutex;
  std::vector<std::string> files;
  run_thread_ranks(3, [&](const Communicator& ranks) {
    const std::vector<PairSpeed> pairs = measure_links(ranks, 1e-4);
    for (size_t from = 0; from < 3; ++from)
      for (size_t to = 0; to < 3; ++to) {
        const PairSpeed& pair = pairs[from * 3 + to];
        EXPECT_EQ(pair.bytes_per_s > 0, from != to);
        EXPECT_EQ(pair.together_bytes_per_s > 0, from != to);
        EXPECT_EQ(pair.latency_s > 0, from != to);
      }
    const std::scoped_lock lock(mutex);
    files.push_back(topology_json(pairs, 3));
  });
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
  const Topology topology = Topology::parse(files[0], "measured");
  EXPECT_EQ(topology.num_ranks(), 3u);
}

TEST(link_meter, pairs_that_slow_each_other_down_share_a_port) {
  const auto kind = [](double together) {
    std::vector<PairSpeed> pairs(16, {1e-4, 12e6, 12e6 * together});
    for (size_t r = 0; r < 4; ++r) pairs[r * 5] = {};
    return Topology::parse(topology_json(pairs, 4), "measured").kind();
  };
  EXPECT_EQ(kind(0.95), Topology::Kind::kMeasured);
  EXPECT_EQ(kind(0.7), Topology::Kind::kMeasured);  // cores that the network's stack waits for
  EXPECT_EQ(kind(0.33), Topology::Kind::kSwitch);
}

}  // namespace
}  // namespace weft::comm
