// Tensor parallelism whose sums travel while they are computed: a PlainTeam that tunes a plan for
// each kind of product when it first meets it. Same bits as the plain one.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/flash_overlap/plan.h"
#include "parallel/flash_overlap/tuning_file.h"
#include "parallel/tensor_team.h"

namespace weft::parallel::flash_overlap {

// Fewer rows are a matter of latency alone, and go the plain way.
inline constexpr size_t kLeastRows = 64;

// Used by one engine thread: ranks meet in the order of its calls, the tuning included.
class OverlappedTeam final : public PlainTeam {
 public:
  // `tunings`: where rank 0 keeps what was tuned for the next start; empty: nowhere. `notice` gets
  // rank 0's sentences about that file.
  explicit OverlappedTeam(comm::Communicator ranks, const std::filesystem::path& tunings = {},
                          TuningFile::Notice notice = {});

  void multiply_add(const kernels::Linear& weight, kernels::Activations& x, const float* bias,
                    const models::Residual& residual, const CoreSet& cores) override;

  // False: every product goes the plain way, and none is tuned. All ranks between the same two products.
  void set_overlap(bool on) { overlap_ = on; }

  // Products that were tuned so far, with the groups chosen.
  struct Tuned {
    size_t kind = 0;                             // of shapes: products of one share a plan
    size_t rows = 0, outputs = 0, features = 0;  // of this rank's shard
    std::vector<size_t> group_ends;
    bool from_file = false;
  };
  const std::vector<Tuned>& tuned() const { return tuned_; }

 private:
  // What ranks must agree on to share a plan: the features and formats of all ranks' shards.
  using Kind = std::vector<uint64_t>;
  size_t kind_of(const kernels::Linear& weight);
  const Plan& plan_for(const kernels::Linear& weight, kernels::Activations& x,
                       const CoreSet& cores);
  std::string key_of(size_t kind, const TileGrid& grid) const;
  std::vector<size_t> kept_groups(const OverlapCall& call, const TileGrid& grid,
                                  const std::string& key) const;

  std::unique_ptr<TuningFile> file_;  // rank 0's
  size_t threads_ = 0;                // of rank 0, for the file's keys
  std::map<const kernels::Linear*, size_t> kinds_of_;
  std::vector<Kind> kinds_;
  std::map<std::pair<size_t, size_t>, Plan> plans_;  // (kind, rows)
  std::vector<Tuned> tuned_;
  Scratch<float> values_;
  bool overlap_ = true;
};

}  // namespace weft::parallel::flash_overlap
