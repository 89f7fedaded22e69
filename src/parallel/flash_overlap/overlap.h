// FlashOverlap at work (§3 of the paper): the cores compute a product's tiles in the plan's order;
// as soon as all tiles of a group are there, the group is on its way to the other ranks, while the
// cores compute the next. The product is the plain one tile by tile, the collective the plain one
// group by group, so the result is bit for bit that of one after the other, for every partition.
//
// No thread of its own: whoever finishes a tile starts the groups that are full and lets messages
// move; a lock that nobody waits for makes it one at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "comm/communicator.h"
#include "kernels/linear.h"
#include "models/teams.h"
#include "parallel/flash_overlap/plan.h"

namespace weft::parallel::flash_overlap {

// When what happened, in seconds since the call, for a timeline; off unless it is passed in.
struct Trace {
  struct Span {
    double begin_s = 0, end_s = 0;
    size_t core = 0;
  };
  std::vector<Span> tiles;   // by position
  std::vector<Span> groups;  // started, seen to be done
  double total_s = 0;
};

struct OverlapCall {
  const kernels::Linear* weight = nullptr;  // this rank's shard, (plan's columns, shard of K)
  kernels::Activations* x = nullptr;        // (plan's rows, shard of K)
  const comm::Communicator* comm = nullptr;
  uint32_t channel = 0;
  Trace* trace = nullptr;
};

// values: plan.size() of them, in the plan's order; afterwards the sums over the ranks, the same
// bits on all of them. kPeerLost, kTimeout: as Communicator's waits.
void multiply_all_reduce(const OverlapCall& call, const Plan& plan, float* values,
                         const CoreSet& cores);

// The plan's destinations are the owners of rows. Afterwards the values of this rank's rows are the
// sums, where plan.offset_in_panel() says; the others are not of use.
void multiply_reduce_scatter(const OverlapCall& call, const Plan& plan, float* values,
                             const CoreSet& cores);

// plans: of all ranks; each may have rows of its own number and going where it likes. `values`:
// room for this rank's plan; `received`: for `inbox`, which is made of the same plans.
void multiply_all_to_all(const OverlapCall& call, std::span<const Plan> plans, const Inbox& inbox,
                         float* values, float* received, const CoreSet& cores);

// residual[row] += values of the row, for the rows that `destination` owns (all of an all-reduce's:
// 0), in one pass through the map, with the norm behind it if there is one; `bias` (columns) or none is
// added too. What follows a row-parallel linear.
void add_rows(const Plan& plan, size_t destination, const float* values, const float* bias,
              const models::Residual& residual, const CoreSet& cores);

// kInvalidInput, on every rank, where they are about to run different plans: sums of unrelated
// values look plausible. One small exchange; once per plan.
void check_agreement(const Plan& plan, const comm::Communicator& comm, uint32_t channel = 0);

}  // namespace weft::parallel::flash_overlap
