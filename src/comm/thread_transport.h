// Ranks that are threads of one process: for tests, and for one machine without MPI. A message
// waits in its receiver's mailbox until it is asked for.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace weft::comm {

// One communicator for each of `num_ranks` ranks. Each is used by the threads of its rank.
std::vector<Communicator> make_thread_ranks(size_t num_ranks, CommunicatorOptions options = {});

// Runs body(communicator) in a thread for each rank and returns when all have ended. A rank that
// throws is lost to the others: their waits for it end with kPeerLost, which says why. The first
// error is rethrown here.
void run_thread_ranks(size_t num_ranks, const std::function<void(const Communicator&)>& body,
                      CommunicatorOptions options = {});

}  // namespace weft::comm
