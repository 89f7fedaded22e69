#include "parallel/flash_overlap/team.h"

#include <algorithm>
#include <cmath>

#include "kernels/isa.h"
#include "parallel/flash_overlap/measure.h"
#include "parallel/flash_overlap/overlap.h"

namespace weft::parallel::flash_overlap {
namespace {

// A plan serves row counts up to this factor away, its borders moved in proportion.
constexpr double kNear = 1.5;
// Serving meets many row counts; plans of those not met for long are made again when they come.
constexpr size_t kMostPlans = 64;
// A kept tuning is for another link if the collective takes this factor more or less than then.
constexpr double kSameLink = 2;

std::vector<size_t> rescaled(const std::vector<size_t>& group_ends, size_t num_tiles) {
  std::vector<size_t> ends;
  for (const size_t end : group_ends) {
    const size_t moved = end * num_tiles / group_ends.back();
    if (moved > (ends.empty() ? 0 : ends.back())) ends.push_back(moved);
  }
  return ends;  // the last border is num_tiles
}

}  // namespace

OverlappedTeam::OverlappedTeam(comm::Communicator all, const std::filesystem::path& tunings,
                               TuningFile::Notice notice)
    : PlainTeam(std::move(all)) {
  if (rank() == 0) file_ = std::make_unique<TuningFile>(tunings, std::move(notice));
}

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

// In words: hosts, what computes, and the product's shards.
std::string OverlappedTeam::key_of(size_t kind, const TileGrid& grid) const {
  std::string key;
  for (size_t r = 0; r < size(); ++r) key += (r == 0 ? "" : ",") + ranks().host(r);
  key += fmt::format(" {} x{}, {} x {} in tiles of {} x {}, shards", name(kernels::active_isa()),
                     threads_, grid.rows, grid.columns, grid.tile_rows, grid.tile_columns);
  for (size_t r = 0; r < size(); ++r)
    key += fmt::format(" {}:{}", kinds_[kind][r] >> 8, name(static_cast<DType>(kinds_[kind][r] & 255)));
  return key;
}

// The groups that rank 0's file has for this product, if the link is still as quick as it was then;
// else none. All ranks together.
std::vector<size_t> OverlappedTeam::kept_groups(const OverlapCall& call, const TileGrid& grid,
                                                const std::string& key) const {
  std::optional<Tuning> kept;
  if (file_) kept = file_->find(key);
  if (kept && kept->group_ends.back() != grid.num_tiles()) kept.reset();
  double head[2] = {kept ? static_cast<double>(kept->group_ends.size()) : 0.0,
                    kept ? kept->collective_s : 0.0};
  ranks().broadcast(std::as_writable_bytes(std::span(head)), 0);
  if (head[0] == 0) return {};
  std::vector<size_t> ends(static_cast<size_t>(head[0]));
  if (kept) ends = kept->group_ends;
  ranks().broadcast(std::as_writable_bytes(std::span(ends)), 0);
  const double now_s = measure_collective(call, grid, Collective::kAllReduce);
  const bool same_link = now_s <= kSameLink * head[1] && head[1] <= kSameLink * now_s;
  return same_link ? ends : std::vector<size_t>();
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
  std::vector<size_t> groups;
  if (nearest != nullptr) {
    groups = rescaled(nearest->group_ends, grid.num_tiles());
  } else {
    threads_ = cores.size();
    const std::string words = key_of(key.first, grid);
    groups = kept_groups(call, grid, words);
    const bool from_file = !groups.empty();
    if (!from_file) {
      const Tuning tuning = tune(call, grid, Collective::kAllReduce, cores).best;
      if (file_) file_->add(words, tuning);
      groups = tuning.group_ends;
    }
    tuned_.push_back(
        {key.first, rows, weight.out_features(), weight.in_features(), groups, from_file});
  }
  Plan plan = make_plan(grid, Collective::kAllReduce, std::move(groups), size());
  check_agreement(plan, ranks());
  return plans_.emplace(key, std::move(plan)).first->second;
}

void OverlappedTeam::multiply_add(const kernels::Linear& weight, kernels::Activations& x,
                                  const float* bias, const models::Residual& residual,
                                  const CoreSet& cores) {
  if (!overlap_ || x.num_rows() < kLeastRows)
    return PlainTeam::multiply_add(weight, x, bias, residual, cores);
  const Plan& plan = plan_for(weight, x, cores);
  if (plan.num_groups() == 1) return PlainTeam::multiply_add(weight, x, bias, residual, cores);
  float* const values = values_.need(plan.size());
  multiply_all_reduce({&weight, &x, &ranks()}, plan, values, cores);
  add_rows(plan, 0, values, bias, residual, cores);
}

}  // namespace weft::parallel::flash_overlap
