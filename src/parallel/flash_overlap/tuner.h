// How many tiles to send at a time. Early groups start the wire early, large ones use it well; the
// latency model of the paper (§3.3, alg. 1) says what a partition takes:
//   P_j = computed until the end of group j;   F_j = max(F_(j-1), P_j) + l(bytes of group j)
// with, on a CPU, the product held up by the messages' own work: each second of messages so far
// costs the cores `interference` seconds, P_j = tiles * tile_s + interference * (l of groups before
// j). (The paper gives the collective two multiprocessors for good; a factor on the whole product,
// as there, foretells too much wherever the product takes longer than its messages.) F_j grows with
// F_(j-1) and with the messages so far alone, so the best partition is found by dynamic programming
// over pairs of the two (the paper searches 2^(T-1) partitions under two limits). One group, no
// overlap, is among the candidates.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace weft::parallel::flash_overlap {

// Seconds of a collective by its bytes: measured points joined by lines, the last line going on.
class LatencyCurve {
 public:
  // kInvalidInput: no points, bytes that do not rise, seconds that are negative or not finite.
  explicit LatencyCurve(std::vector<std::pair<double, double>> bytes_and_seconds);
  double operator()(double bytes) const;
  std::span<const std::pair<double, double>> points() const { return points_; }

 private:
  std::vector<std::pair<double, double>> points_;
};

struct LatencyModel {
  double tile_s = 0;        // a rank's time for a tile, all its compute threads at work
  double interference = 0;  // seconds of computing that a second of messages costs, 0 to 1
  LatencyCurve collective;  // measured while the cores compute, messages back to back
  double whole_s = 0;       // all tiles' collective while nothing is computed
  double reading_s = 0;     // what comes after the last group: the sums are read through the map
};

// `tile_bytes_before`: (tiles + 1) bytes in the tiles before each position; `group_ends` as in
// Plan. One group is the product alone, then the collective.
double predict_s(std::span<const size_t> group_ends, std::span<const double> tile_bytes_before,
                 const LatencyModel& model);

// The partition that predict_s() likes best among those with borders at multiples of `step` tiles
// (where more than 16 pairs of times are worth keeping, among those that go on from the 16
// earliest).
std::vector<size_t> best_groups(std::span<const double> tile_bytes_before,
                                const LatencyModel& model, size_t step = 1);

std::vector<size_t> equal_groups(size_t num_tiles, size_t num_groups);

}  // namespace weft::parallel::flash_overlap
