// How fast messages between ranks are: every ordered pair alone, and all of them at once.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace weft::comm {

struct PairSpeed {
  double latency_s = 0;             // of a message of one byte, one way
  double bytes_per_s = 0;           // alone
  double together_bytes_per_s = 0;  // while all pairs send
};

// Every rank calls it and gets the same: (from, to) at from * size + to; zeros for from = to.
// `seconds`: about so much for each measurement.
std::vector<PairSpeed> measure_links(const Communicator& ranks, double seconds = 0.1);

// A topology file (topology.h) of what was measured: the pairs' latency and their rate alone; or, where
// pairs are so much slower together that each rank must have one port for all of its messages, a switch
// with ports of the pairs' median speed.
std::string topology_json(const std::vector<PairSpeed>& pairs, size_t num_ranks);

}  // namespace weft::comm
