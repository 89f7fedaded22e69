#include "parallel/flash_overlap/team.h"

#include <algorithm>
#include <cmath>

#include "parallel/flash_overlap/measure.h"
#include "parallel/flash_overlap/overlap.h"

namespace weft::parallel::flash_overlap {
namespace {

// A plan serves row counts up to this factor away, its borders moved in proportion.
constexpr double kNear = 1.5;
// Serving meets many row counts; plans of those not met for long are made again when they come.
constexpr size_t kMostPlans = 64;

std::vector<size_t> rescaled(const std::vector<size_t>& group_ends, size_t num_tiles) {
  std::vector<size_t> ends;
  for (const size_t end : group_ends) {
    const size_t moved = end * num_tiles / group_ends.back();
    if (moved > (ends.empty() ? 0 : ends.back())) ends.push_back(moved);
  }
  return ends;  // the last border is num_tiles
}

}  // namespace

// Matrices are met in the same order on all ranks, so each asks the others the first time it meets
// one.
size_t OverlappedTeam::kind_of(const kernels::Linear& weight) {
  if (const auto known = kinds_of_.find(&weight); known != kinds_of_.end()) return known->second;
  Kind kind(size());
  std::vector<size_t> begins(size() + 1);
  for (size_t r = 0; r <= size(); ++r) begins[r] = r * sizeof(uint64_t);
  kind[rank()] =
      static_cast<uint64_t>(weight.in_features()) << 8 | static_cast<uint64_t>(weight.dtype());
  ranks().all_gather(comm::writable_bytes_of(std::span(kind)), begins);
  kind.push_back(weight.out_features());
  const auto found = std::find(kinds_.begin(), kinds_.end(), kind);
  const auto index = static_cast<size_t>(found - kinds_.begin());
  if (found == kinds_.end()) kinds_.push_back(kind);
  kinds_of_[&weight] = index;
  return index;
}

const Plan& OverlappedTeam::plan_for(const kernels::Linear& weight, kernels::Activations& x,
                                     const CoreSet& cores) {
  const size_t rows = x.num_rows();
  const std::pair key(kind_of(weight), rows);
  if (const auto known = plans_.find(key); known != plans_.end()) return known->second;
  if (plans_.size() >= kMostPlans) plans_.clear();

  // Rank 0's tiles: shards may differ a little, the plan may not.
  TileGrid grid = preferred_grid(weight, rows, cores.size());
  uint64_t tile[2] = {grid.tile_rows, grid.tile_columns};
  ranks().broadcast(std::as_writable_bytes(std::span(tile)), 0);
  grid.tile_rows = tile[0];
  grid.tile_columns = tile[1];

  const OverlapCall call{&weight, &x, &ranks()};
  const Tuned* nearest = nullptr;
  const auto distance = [&](const Tuned& tuned) {
    return std::abs(std::log(static_cast<double>(tuned.rows) / static_cast<double>(rows)));
  };
  for (const Tuned& tuned : tuned_)
    if (tuned.kind == key.first && distance(tuned) <= std::log(kNear) &&
        (nearest == nullptr || distance(tuned) < distance(*nearest)))
      nearest = &tuned;
  Plan plan = nearest != nullptr
                  ? make_plan(grid, Collective::kAllReduce,
                              rescaled(nearest->group_ends, grid.num_tiles()), size())
                  : tuned_plan(call, grid, Collective::kAllReduce, cores);
  check_agreement(plan, ranks());
  if (nearest == nullptr)
    tuned_.push_back({key.first,
                      rows,
                      weight.out_features(),
                      weight.in_features(),
                      {plan.group_ends().begin(), plan.group_ends().end()}});
  return plans_.emplace(key, std::move(plan)).first->second;
}

void OverlappedTeam::multiply_add(const kernels::Linear& weight, kernels::Activations& x,
                                  const float* bias, float* residual, size_t stride,
                                  const CoreSet& cores) {
  if (x.num_rows() < kLeastRows)
    return PlainTeam::multiply_add(weight, x, bias, residual, stride, cores);
  const Plan& plan = plan_for(weight, x, cores);
  if (plan.num_groups() == 1)
    return PlainTeam::multiply_add(weight, x, bias, residual, stride, cores);
  float* const values = values_.need(plan.size());
  multiply_all_reduce({&weight, &x, &ranks()}, plan, values, cores);
  add_rows(plan, 0, values, bias, residual, stride, cores);
}

}  // namespace weft::parallel::flash_overlap
