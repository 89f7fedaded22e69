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
  EXPECT_EQ(topology.kind(), Topology::Kind::kMeasured);
  EXPECT_EQ(topology.num_ranks(), 3u);
}

}  // namespace
}  // namespace weft::comm
