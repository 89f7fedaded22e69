#include "parallel/flash_overlap/tuner.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace weft::parallel::flash_overlap {

LatencyCurve::LatencyCurve(std::vector<std::pair<double, double>> bytes_and_seconds)
    : points_(std::move(bytes_and_seconds)) {
  if (points_.empty()) fail(ErrorKind::kInvalidInput, "a latency curve needs a point at least");
  for (size_t i = 0; i < points_.size(); ++i) {
    const auto& [bytes, seconds] = points_[i];
    if (!std::isfinite(bytes) || !std::isfinite(seconds) || seconds < 0 ||
        (i > 0 && bytes <= points_[i - 1].first))
      fail(
          ErrorKind::kInvalidInput,
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
  if (group_ends.size() == 1)
    return static_cast<double>(group_ends[0]) * model.tile_s + model.whole_s + model.reading_s;
  double finished = 0, messages = 0;
  size_t begin = 0;
  for (const size_t end : group_ends) {
    const double computed = static_cast<double>(end) * model.tile_s + model.interference * messages;
    const double group = model.collective(tile_bytes_before[end] - tile_bytes_before[begin]);
    finished = std::max(finished, computed) + group;
    messages += group;
    begin = end;
  }
  return finished + model.reading_s;
}

std::vector<size_t> best_groups(std::span<const double> tile_bytes_before,
                                const LatencyModel& model, size_t step) {
  const size_t num_tiles = tile_bytes_before.size() - 1;
  std::vector<size_t> borders = {0};  // where a group may end
  for (size_t i = std::max<size_t>(step, 1); i < num_tiles; i += std::max<size_t>(step, 1))
    borders.push_back(i);
  borders.push_back(num_tiles);

  // Ways to send all tiles up to a border of which none is both finished later and has more
  // messages.
  struct Way {
    double finished = 0, messages = 0;
    size_t border = 0, way = 0;  // that it goes on from
  };
  constexpr size_t kMostWays = 16;
  std::vector<std::vector<Way>> ways(borders.size());
  ways[0] = {{}};
  std::vector<Way> all;
  for (size_t i = 1; i < borders.size(); ++i) {
    all.clear();
    // All tiles in one group are the product alone, then the collective: compared at the end.
    for (size_t j = borders[i] == num_tiles && borders.size() > 2 ? 1 : 0; j < i; ++j) {
      const double group =
          model.collective(tile_bytes_before[borders[i]] - tile_bytes_before[borders[j]]);
      for (size_t w = 0; w < ways[j].size(); ++w) {
        const Way& from = ways[j][w];
        const double computed =
            static_cast<double>(borders[i]) * model.tile_s + model.interference * from.messages;
        all.push_back({std::max(from.finished, computed) + group, from.messages + group, j, w});
      }
    }
    std::sort(all.begin(), all.end(), [](const Way& a, const Way& b) {
      return a.finished != b.finished ? a.finished < b.finished : a.messages < b.messages;
    });
    for (const Way& way : all) {
      if (ways[i].size() == kMostWays) break;
      if (ways[i].empty() || way.messages < ways[i].back().messages) ways[i].push_back(way);
    }
  }

  std::vector<size_t> ends;
  for (size_t i = borders.size() - 1, w = 0; i > 0;) {
    ends.push_back(borders[i]);
    const Way& way = ways[i][w];
    i = way.border;
    w = way.way;
  }
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
