// What an exchange will take, from the topology and the arithmetic rate alone: attention of step t
// runs beside the transfers of step t, and where both are busy each slows the other by a part.
//   T = sum over steps of max(compute, transfer) + interference * min(compute, transfer)
#pragma once

#include <cstddef>
#include <vector>

#include "comm/topology.h"
#include "parallel/exchange.h"
#include "parallel/placement.h"

namespace weft::parallel {

struct AttentionWork {
  size_t num_heads = 1, num_kv_heads = 1, head_dim = 64;
  size_t batch = 1;
  double bytes_per_value = 2;  // of keys and values on the wire
  double flops_per_s = 1e12;   // of one rank, in attention
  double interference = 0;     // 0: perfect overlap, 1: none
};

struct ExchangeCost {
  struct Step {
    double compute_s = 0, transfer_s = 0;
  };
  std::vector<Step> steps;  // one more than the exchange has: the last only computes
  double compute_s = 0, transfer_s = 0, total_s = 0;
  double exposed_s = 0;                                                   // total less compute
  double busiest_wire_bytes = 0, idlest_wire_bytes = 0, total_bytes = 0;  // over all steps
};

// kInvalidInput: the exchange, the placement and the topology are of different sizes.
ExchangeCost predict(const Exchange& exchange, const Placement& placement,
                     const comm::Topology& topology, const AttentionWork& work);

}  // namespace weft::parallel
