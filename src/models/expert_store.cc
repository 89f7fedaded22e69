#include "models/expert_store.h"

#include <algorithm>
#include <array>
#include <utility>

namespace weft::models {
namespace {

class ResidentPass final : public ExpertPass {
 public:
  ResidentPass(const std::vector<Mlp>& experts, size_t layers_per_group, size_t experts_per_group)
      : experts_(experts),
        layers_per_group_(layers_per_group),
        experts_per_group_(experts_per_group) {}

  void expect(size_t, std::span<const uint32_t>) override {}
  void visit(size_t layer, std::span<const uint32_t> experts) override {
    first_ = layer / layers_per_group_ * experts_per_group_;
    left_ = experts;
  }
  std::span<const Arrival> next(Wait) override {
    const size_t count = std::min(left_.size(), kMost);
    for (size_t i = 0; i < count; ++i)
      arrivals_[i] = {.expert = left_[i], .mlp = &experts_[first_ + left_[i]]};
    left_ = left_.subspan(count);
    return std::span(arrivals_).first(count);
  }
  void end() noexcept override { left_ = {}; }

 private:
  const std::vector<Mlp>& experts_;
  size_t layers_per_group_, experts_per_group_;
  size_t first_ = 0;
  std::span<const uint32_t> left_;
  std::array<Arrival, kMost> arrivals_;
};

class ResidentExperts final : public ExpertStore {
 public:
  ResidentExperts(const ExpertTable& table, std::vector<Mlp> experts)
      : layers_per_group_(table.layers_per_group),
        experts_per_group_(table.experts_per_group),
        experts_(std::move(experts)) {
    for (const Mlp& expert : experts_) bytes_ += expert.packed_bytes();
  }
  std::unique_ptr<ExpertPass> make_pass() override {
    return std::make_unique<ResidentPass>(experts_, layers_per_group_, experts_per_group_);
  }
  size_t memory_bytes() const override { return bytes_; }

 private:
  size_t layers_per_group_, experts_per_group_;
  std::vector<Mlp> experts_;
  size_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<ExpertStore> make_resident_experts(const ExpertTable& table,
                                                   std::vector<Mlp> experts) {
  return std::make_unique<ResidentExperts>(table, std::move(experts));
}

}  // namespace weft::models
