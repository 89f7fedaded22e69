// Which of several ways to do the same thing is fastest, where single runs of one differ by tens of
// percent. All of them run once a round, in an order that turns, so that what disturbs a machine for a
// while disturbs all; they are compared by their runs of the same rounds. Those that are clearly slower
// leave early.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace weft::parallel::flash_overlap {

struct RaceRounds {
  int least = 4, most = 10;
};

struct RaceResult {
  size_t winner = 0;
  std::vector<std::vector<double>> seconds;  // by way, of its runs
};

// `run` gives the seconds of one run of a way. Way 0 is the plain one: it wins unless another is faster
// by more than half the standard error of that. (With noise as on the test beds, 500 simulated
// races lost 1.3 % against the fastest in the mean; without this rule plain ways lost too often, and with
// a whole error overlap did.)
RaceResult race(size_t num_ways, const std::function<double(size_t way)>& run, RaceRounds rounds = {});

}  // namespace weft::parallel::flash_overlap
