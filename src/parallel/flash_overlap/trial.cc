#include "parallel/flash_overlap/trial.h"

#include <algorithm>
#include <limits>

namespace weft::parallel::flash_overlap {
namespace {

using Clock = std::chrono::steady_clock;

// Partitions that the first round finds slower than the best by this factor are not run again.
constexpr double kWorthAnother = 1.15;

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
    std::vector<Plan> plans;
    std::vector<std::vector<double>> seconds;
    for (std::vector<size_t>& ends : candidates) {
      const auto same = [&](const Trial& trial) { return trial.group_ends == ends; };
      if (std::any_of(trials_.begin(), trials_.end(), same)) continue;
      plans.push_back(make_plan(grid_, collective_, ends, call_.comm->size()));
      trials_.push_back({std::move(ends), 0});
      seconds.emplace_back();
    }
    for (int round = 0; round < 3; ++round)
      for (size_t i = 0; i < plans.size(); ++i) {
        if (round > 0 && seconds[i].front() > kWorthAnother * least_) continue;
        seconds[i].push_back(run(plans[i]));
        least_ = std::min(least_, seconds[i].back());
      }
    for (size_t i = 0; i < plans.size(); ++i)
      trials_[trials_.size() - plans.size() + i].seconds = median(std::move(seconds[i]));
  }

  const std::vector<Trial>& all() const { return trials_; }
  const Trial& fastest() const {
    return *std::min_element(trials_.begin(), trials_.end(), [](const Trial& a, const Trial& b) {
      return a.seconds < b.seconds;
    });
  }

 private:
  double run(const Plan& plan) {
    call_.comm->barrier(call_.channel);
    const Clock::time_point begin = Clock::now();
    if (collective_ == Collective::kAllReduce)
      multiply_all_reduce(call_, plan, values_.data(), cores_);
    else
      multiply_reduce_scatter(call_, plan, values_.data(), cores_);
    add_rows(plan, collective_ == Collective::kAllReduce ? 0 : call_.comm->rank(), values_.data(),
             nullptr, {.rows = residual_.data(), .stride = grid_.columns}, cores_);
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    take_largest(call_, {&seconds, 1});
    return seconds;
  }

  const OverlapCall& call_;
  const TileGrid& grid_;
  const Collective collective_;
  const CoreSet& cores_;
  std::vector<float> values_, residual_;
  std::vector<Trial> trials_;
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
  for (const size_t groups : {2, 4, 8, 16}) candidates.push_back(equal_groups(num_tiles, groups));
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  trials.add(std::move(candidates));
  trials.add({best_groups(before, fitted(model, trials.all(), before), step)});
  return {.best = {trials.fastest().group_ends, model.whole_s},
          .model = fitted(model, trials.all(), before),
          .trials = trials.all()};
}

}  // namespace weft::parallel::flash_overlap
