// The last part of tuning: partitions run on the real links, and the fastest stays. The latency model
// chooses what is worth a try and, fitted to what was tried, what else is; on machines whose cores
// also run the network's stack it alone was off by up to 38 %.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "parallel/flash_overlap/measure.h"

namespace weft::parallel::flash_overlap {

struct Trial {
  std::vector<size_t> group_ends;
  double seconds = 0;  // until the slowest rank was done: the median of its runs
};

struct Tuning {
  std::vector<size_t> group_ends;  // of the trial that was fastest in the end
  double collective_s = 0;         // all tiles' collective alone: knows the link again
};

struct TuningRecord {
  Tuning best;
  LatencyModel model;  // fitted to the trials
  std::vector<Trial> trials;
};

// All ranks together, with the same outcome on all. Takes some sixty times what the product and its
// collective take. Ranks that are to use a plan of it check_agreement() first.
TuningRecord tune(const OverlapCall& call, const TileGrid& grid, Collective collective,
                  const CoreSet& cores);

// The model with that interference, and that factor on all of its collective's seconds, with which it
// foretells the trials best (least squares of relative errors).
LatencyModel fitted(const LatencyModel& model, std::span<const Trial> trials,
                    std::span<const double> tile_bytes_before);

}  // namespace weft::parallel::flash_overlap
