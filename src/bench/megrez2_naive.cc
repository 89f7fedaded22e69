#include "bench/megrez2_naive.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/seconds.h"
#include "models/computing_pass.h"

namespace weft::bench {

using models::ExpertPass;
using Clock = std::chrono::steady_clock;

class NaiveExperts::Pass final : public models::ComputingPass {
 public:
  explicit Pass(NaiveExperts& store) : store_(store) {}

  void expect(size_t, std::span<const uint32_t>) override {}
  void visit(size_t layer, std::span<const uint32_t> experts) override {
    here_.clear();
    given_ = 0;
    std::fill(store_.may_go_.begin(), store_.may_go_.end(), uint8_t{1});
    store_.cache_.begin_layer(layer);
    for (const uint32_t expert : experts)
      if (const auto slot = store_.cache_.slot_of(store_.shape_.key(layer, expert)))
        store_.may_go_[*slot] = 0;
    for (const uint32_t expert : experts)
      here_.push_back({.expert = expert, .mlp = store_.load(layer, expert, cores_)});
  }
  std::span<const Arrival> next(Wait) override {
    const auto left = std::span<const Arrival>(here_).subspan(given_);
    const auto now = left.first(std::min(left.size(), kMost));
    given_ += now.size();
    return now;
  }
  void end() noexcept override {
    here_.clear();
    given_ = 0;
    cores_ = CoreSet();
  }
  void lend(const CoreSet& cores) override { cores_ = cores; }

 private:
  NaiveExperts& store_;
  CoreSet cores_;
  std::vector<Arrival> here_;
  size_t given_ = 0;
};

NaiveExperts::NaiveExperts(const models::ExpertTable& table, text::RecordTable records,
                           std::unique_ptr<text::RecordSource> source, size_t num_slots,
                           text::ExpertPolicy policy)
    : shape_{table.num_layers, table.layers_per_group, table.num_groups, table.experts_per_group},
      records_(std::move(records)),
      source_(std::move(source)),
      slot_bytes_(records_.largest_bytes),
      arena_(num_slots * slot_bytes_, "slots for experts"),
      cache_(shape_, num_slots, policy),
      experts_(num_slots),
      may_go_(num_slots, 1) {}

std::unique_ptr<ExpertPass> NaiveExperts::make_pass() { return std::make_unique<Pass>(*this); }

models::Mlp* NaiveExperts::load(size_t layer, uint32_t expert, const CoreSet& cores) {
  const size_t key = shape_.key(layer, expert), group = key / shape_.experts_per_group;
  cache_.use(key, layer);
  std::optional<size_t> slot = cache_.slot_of(key);
  if (slot) {
    ++counters_.hits;
    return &experts_[*slot];
  }
  ++counters_.misses;
  ++counters_.late;
  slot = cache_.place(key, layer, may_go_);
  WEFT_ASSERT(slot.has_value());
  may_go_[*slot] = 0;
  const Clock::time_point begin = Clock::now();
  const auto record = source_->read(group, expert, arena_.data() + *slot * slot_bytes_);
  counters_.stall_s += seconds_since(begin);
  counters_.bytes_read += record.bytes_read;
  std::array<std::optional<Error>, 2> wrong;  // in its halves
  cores.parallel_for(2, 1, [&](size_t half, size_t, size_t) {
    wrong[half] = source_->check(group, expert, record.at, half);
  });
  for (const auto& error : wrong)
    if (error) throw *error;
  experts_[*slot] = records_.layouts[group].expert_at(record.at);
  return &experts_[*slot];
}

}  // namespace weft::bench
