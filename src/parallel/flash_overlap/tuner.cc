#include "parallel/flash_overlap/tuner.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace weft::parallel::flash_overlap {

LatencyCurve::LatencyCurve(std::vector<std::pair<double, double>> bytes_and_seconds)
    : points_(std::move(bytes_and_seconds)) {
  if (points_.empty()) fail(ErrorKind::kInvalidInput, "a latency curve needs a point at least");
  for (size_t i = 0; i < points_.size(); ++i) {
    const auto& [bytes, seconds] = points_[i];
    if (!std::isfinite(bytes) || !std::isfinite(seconds) || seconds < 0 ||
        (i > 0 && bytes <= points_[i - 1].first))
      fail(ErrorKind::kInvalidInput,
           "point {} of a latency curve is {} bytes in {} s: bytes must rise, seconds be finite and "
           "not negative",
           i, bytes, seconds);
  }
}

double LatencyCurve::operator()(double bytes) const {
  if (points_.size() == 1) return points_[0].second;
  size_t i = 1;
  while (i + 1 < points_.size() && points_[i].first < bytes) ++i;
  const auto& [x0, y0] = points_[i - 1];
  const auto& [x1, y1] = points_[i];
  // Below the first point a message costs as much as there: latency does not extrapolate to less.
  return std::max(bytes < points_[0].first ? points_[0].second : 0.0,
                  y0 + (y1 - y0) * (bytes - x0) / (x1 - x0));
}

double predict_s(std::span<const size_t> group_ends, std::span<const double> tile_bytes_before,
                 const LatencyModel& model) {
  const bool alone = group_ends.size() == 1;
  double finished = 0;
  size_t begin = 0;
  for (const size_t end : group_ends) {
    finished = std::max(finished, model.computed_s(end, alone)) +
               model.collective(tile_bytes_before[end] - tile_bytes_before[begin]);
    begin = end;
  }
  return finished;
}

std::vector<size_t> best_groups(std::span<const double> tile_bytes_before,
                                const LatencyModel& model, size_t step) {
  const size_t num_tiles = tile_bytes_before.size() - 1;
  std::vector<size_t> borders = {0};  // where a group may end
  for (size_t i = std::max<size_t>(step, 1); i < num_tiles; i += std::max<size_t>(step, 1))
    borders.push_back(i);
  borders.push_back(num_tiles);

  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> finished(borders.size(), kNever);  // F of the best partition up to a border
  std::vector<size_t> previous(borders.size(), 0);
  finished[0] = 0;
  for (size_t i = 1; i < borders.size(); ++i) {
    const double computed = model.computed_s(borders[i], false);
    for (size_t j = 0; j < i; ++j) {
      const double bytes = tile_bytes_before[borders[i]] - tile_bytes_before[borders[j]];
      const double f = std::max(finished[j], computed) + model.collective(bytes);
      if (f < finished[i]) {
        finished[i] = f;
        previous[i] = j;
      }
    }
  }

  std::vector<size_t> ends;
  for (size_t i = borders.size() - 1; i > 0; i = previous[i]) ends.push_back(borders[i]);
  std::reverse(ends.begin(), ends.end());
  const std::vector<size_t> one = {num_tiles};
  return predict_s(one, tile_bytes_before, model) <= predict_s(ends, tile_bytes_before, model)
             ? one
             : ends;
}

std::vector<size_t> equal_groups(size_t num_tiles, size_t num_groups) {
  std::vector<size_t> ends;
  const size_t groups = std::clamp<size_t>(num_groups, 1, num_tiles);
  for (size_t g = 1; g <= groups; ++g) ends.push_back(num_tiles * g / groups);
  return ends;
}

}  // namespace weft::parallel::flash_overlap
