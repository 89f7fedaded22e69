#include "parallel/flash_overlap/trial.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/seconds.h"
#include "parallel/flash_overlap/race.h"

namespace weft::parallel::flash_overlap {
namespace {

using Clock = std::chrono::steady_clock;

// Partitions that the first round finds slower than the best by this factor are not run again.
constexpr double kWorthAnother = 1.15;
// Single runs of one partition differ by up to 25 % on a busy machine, and the fastest of ten medians of
// three is often one that was lucky: so many of the fastest, and none at all, race once more.
constexpr size_t kFinalists = 4;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Runs partitions and remembers what each took.
class Trials {
 public:
  Trials(const OverlapCall& call, const TileGrid& grid, Collective collective, const CoreSet& cores)
      : call_(call), grid_(grid), collective_(collective), cores_(cores) {
    values_.resize(grid.rows * grid.columns);
    residual_.resize(values_.size());
  }

  // Three rounds in turn of those among `candidates` that were not tried before, as far as they are
  // promising.
  void add(std::vector<std::vector<size_t>> candidates) {
    const size_t known = trials_.size();
    for (std::vector<size_t>& ends : candidates) {
      const auto same = [&](const Trial& trial) { return trial.group_ends == ends; };
      if (std::any_of(trials_.begin(), trials_.end(), same)) continue;
      trials_.push_back({std::move(ends), 0});
      runs_.emplace_back();
    }
    const size_t added = trials_.size() - known;
    for (size_t round = 0; round < 3; ++round)
      for (size_t turn = 0; turn < added; ++turn) {
        const size_t i = known + (turn + round) % added;
        if (round > 0 && runs_[i].front() > kWorthAnother * least_) continue;
        run(i);
        least_ = std::min(least_, runs_[i].back());
      }
  }

  // The first trial, no overlap, against the fastest of the others, all rounds anew.
  void decide() {
    std::vector<size_t> order(trials_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin() + 1, order.end(), [&](size_t a, size_t b) {
      return trials_[a].seconds < trials_[b].seconds;
    });
    order.resize(std::min(order.size(), 1 + kFinalists));
    fastest_ = order[race(order.size(), [&](size_t way) { return run(order[way]); }).winner];
  }

  const std::vector<Trial>& all() const { return trials_; }
  const Trial& fastest() const { return trials_[fastest_]; }  // after decide()

 private:
  double run(size_t trial) {
    const Plan plan =
        make_plan(grid_, collective_, trials_[trial].group_ends, call_.comm->size());
    call_.comm->barrier(call_.channel);
    const Clock::time_point begin = Clock::now();
    if (collective_ == Collective::kAllReduce)
      multiply_all_reduce(call_, plan, values_.data(), cores_);
    else
      multiply_reduce_scatter(call_, plan, values_.data(), cores_);
    add_rows(plan, collective_ == Collective::kAllReduce ? 0 : call_.comm->rank(), values_.data(),
             nullptr, {.rows = residual_.data(), .stride = grid_.columns}, cores_);
    double seconds = seconds_since(begin);
    take_largest(call_, {&seconds, 1});
    runs_[trial].push_back(seconds);
    trials_[trial].seconds = median(runs_[trial]);
    return seconds;
  }

  const OverlapCall& call_;
  const TileGrid& grid_;
  const Collective collective_;
  const CoreSet& cores_;
  std::vector<float> values_, residual_;
  std::vector<Trial> trials_;
  std::vector<std::vector<double>> runs_;  // seconds of each
  size_t fastest_ = 0;
  double least_ = std::numeric_limits<double>::infinity();
};

}  // namespace

LatencyModel fitted(const LatencyModel& model, std::span<const Trial> trials,
                    std::span<const double> tile_bytes_before) {
  const auto with = [&](double factor, double interference) {
    LatencyModel changed = model;
    std::vector<std::pair<double, double>> points(model.collective.points().begin(),
                                                  model.collective.points().end());
    for (auto& [bytes, seconds] : points) seconds *= factor;
    changed.collective = LatencyCurve(std::move(points));
    changed.interference = interference;
    return changed;
  };
  LatencyModel best = model;
  double least = std::numeric_limits<double>::infinity();
  for (double factor = 0.5; factor < 2; factor *= 1.04)
    for (double interference = 0; interference <= 1; interference += 0.05) {
      const LatencyModel changed = with(factor, interference);
      double errors = 0;
      for (const Trial& trial : trials) {
        const double error =
            predict_s(trial.group_ends, tile_bytes_before, changed) / trial.seconds - 1;
        errors += error * error;
      }
      if (errors >= least) continue;
      least = errors;
      best = changed;
    }
  return best;
}

TuningRecord tune(const OverlapCall& call, const TileGrid& grid, Collective collective,
                  const CoreSet& cores) {
  const LatencyModel model = measure(call, grid, collective, cores);
  const std::vector<double> before = bytes_before(grid, band_order(grid));
  // Borders at every tile up to some 500, so that tuning stays a matter of milliseconds.
  const size_t num_tiles = grid.num_tiles(), step = (num_tiles + 511) / 512;
  Trials trials(call, grid, collective, cores);
  std::vector<std::vector<size_t>> candidates = {{num_tiles}, best_groups(before, model, step)};
  for (const size_t groups : {size_t{2}, size_t{4}, size_t{8}, size_t{16}, grid.num_bands()})
    candidates.push_back(equal_groups(num_tiles, groups));  // whole bands are blocks of rows
  trials.add(std::move(candidates));
  trials.add({best_groups(before, fitted(model, trials.all(), before), step)});
  trials.decide();
  return {.best = {trials.fastest().group_ends, model.whole_s},
          .model = fitted(model, trials.all(), before),
          .trials = trials.all()};
}

}  // namespace weft::parallel::flash_overlap
