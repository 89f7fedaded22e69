#include "bench/megrez2_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/file.h"
#include "base/random.h"
#include "models/computing_pass.h"
#include "text/expert_stream/expert_records.h"

namespace weft::bench {

using models::ExpertPass;

namespace {

// Popular experts first, one order for each group.
std::vector<uint32_t> popularity(size_t group, size_t count, uint32_t seed) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = count; i-- > 1;) {
    const auto random =
        philox4x32({static_cast<uint32_t>(i), static_cast<uint32_t>(group), 0, 0}, {seed, 21});
    std::swap(order[i], order[random[0] % (i + 1)]);
  }
  return order;
}

}  // namespace

Routing::Routing(const text::ExpertCacheShape& shape, size_t experts_per_token,
                 const RoutingOptions& options)
    : shape_(shape), num_layers_(shape.num_layers), chosen_(options.tokens * shape.num_layers) {
  const size_t n = shape.experts_per_group, k = experts_per_token;
  std::vector<double> below(n);  // of the popularity's ranks, their probabilities summed up
  double sum = 0;
  for (size_t i = 0; i < n; ++i)
    below[i] = sum += std::pow(static_cast<double>(i + 1), -options.skew);
  std::vector<std::vector<uint32_t>> popular;
  for (size_t g = 0; g < shape.num_groups; ++g) popular.push_back(popularity(g, n, options.seed));

  for (size_t s = 0; s < options.sequences; ++s) {
    std::vector<std::vector<uint32_t>> current(num_layers_);
    for (size_t t = 0; t < options.tokens; ++t)
      for (size_t layer = 0; layer < num_layers_; ++layer) {
        uint32_t draws = 0;
        const auto draw = [&] {
          return uniform(options.seed, s * num_layers_ + layer, static_cast<uint32_t>(t), draws++);
        };
        std::vector<uint32_t>& experts = current[layer];
        std::erase_if(experts, [&](uint32_t) { return draw() >= options.persistence; });
        while (experts.size() < k) {
          const auto rank =
              std::lower_bound(below.begin(), below.end() - 1, draw() * sum) - below.begin();
          const uint32_t e = popular[layer / shape.layers_per_group][static_cast<size_t>(rank)];
          if (std::find(experts.begin(), experts.end(), e) == experts.end()) experts.push_back(e);
        }
        std::vector<uint32_t>& all = chosen_[t * num_layers_ + layer];
        for (const uint32_t e : experts)
          if (std::find(all.begin(), all.end(), e) == all.end()) all.push_back(e);
      }
  }
}

text::ExpertTrace Routing::trace(size_t first_token, size_t count) const {
  text::ExpertTrace trace{shape_, {}};
  for (size_t t = first_token; t < first_token + count; ++t)
    for (size_t layer = 0; layer < num_layers_; ++layer)
      trace.visits.push_back({layer, chosen(t, layer)});
  return trace;
}

// Stands between the model, which goes by what its gates say, and the store, which goes by the
// routing.
class ExchangedExperts::Pass final : public models::ComputingPass {
 public:
  explicit Pass(ExchangedExperts& experts) : experts_(experts) {}

  void expect(size_t layer, std::span<const uint32_t> experts) override {
    experts_.looks_ahead_ = true;
    experts_.inner_->expect(layer, routed(layer, experts));
  }
  void visit(size_t layer, std::span<const uint32_t> experts) override {
    if (experts_.recorded_ != nullptr)
      experts_.recorded_->visits.push_back({layer, {experts.begin(), experts.end()}});
    asked_.assign(experts.begin(), experts.end());
    given_ = routed(layer, experts);
    experts_.inner_->visit(layer, given_);
  }
  std::span<const Arrival> next(Wait wait) override {
    const auto come = experts_.inner_->next(wait);
    for (size_t i = 0; i < come.size(); ++i) {
      const auto at = std::find(given_.begin(), given_.end(), come[i].expert) - given_.begin();
      arrivals_[i] = come[i];
      arrivals_[i].expert = asked_[static_cast<size_t>(at)];
    }
    return std::span(arrivals_).first(come.size());
  }
  void end() noexcept override {
    if (experts_.inner_ != nullptr) experts_.inner_->end();
  }
  void lend(const CoreSet& cores) override {
    if (auto* const computing = dynamic_cast<models::ComputingPass*>(experts_.inner_.get()))
      computing->lend(cores);
  }

 private:
  // As many experts as were asked for: the routing's, and if it has fewer, others.
  std::vector<uint32_t> routed(size_t layer, std::span<const uint32_t> experts) const {
    if (experts_.routing_ == nullptr) return {experts.begin(), experts.end()};
    std::vector<uint32_t> out = experts_.routing_->chosen(experts_.token_, layer);
    for (uint32_t e = 0; out.size() < experts.size(); ++e)
      if (std::find(out.begin(), out.end(), e) == out.end()) out.push_back(e);
    out.resize(experts.size());
    return out;
  }

  ExchangedExperts& experts_;
  std::vector<uint32_t> asked_, given_;  // of the layer that is visited
  std::array<Arrival, kMost> arrivals_;
};

models::OpenExperts ExchangedExperts::opener(ExchangedExperts** made) {
  return [made](const models::ExpertTable& table, const formats::Checkpoint&, const CoreSet&,
                const ProgressFn&) {
    auto store = std::make_unique<ExchangedExperts>();
    store->table_ = table;
    *made = store.get();
    return store;
  };
}

text::ExpertCacheShape ExchangedExperts::shape() const {
  return {table_.num_layers, table_.layers_per_group, table_.num_groups, table_.experts_per_group};
}

void ExchangedExperts::use(models::ExpertStore* store) {
  inner_ = store == nullptr ? nullptr : store->make_pass();
}

std::unique_ptr<ExpertPass> ExchangedExperts::make_pass() { return std::make_unique<Pass>(*this); }

std::unique_ptr<models::ExpertStore> load_experts(const models::ExpertTable& table,
                                                  const formats::Checkpoint& checkpoint,
                                                  const CoreSet& cores) {
  Arena arena("experts");
  std::vector<models::Mlp> experts;
  for (const models::ExpertMatrices& m : table.experts) {
    experts.push_back({kernels::Linear::pack(m.gate, cores, &arena),
                       kernels::Linear::pack(m.up, cores, &arena),
                       kernels::Linear::pack(m.down, cores, &arena)});
    for (const TensorView* view : {&m.gate, &m.up, &m.down}) checkpoint.release(*view);
  }
  return make_resident_experts(table, std::move(experts));
}

std::unique_ptr<models::ExpertStore> map_experts(const models::ExpertTable& table,
                                                 const std::filesystem::path& pack) {
  const text::RecordTable records(table);
  const auto file = MappedFile::open(pack);
  std::vector<models::Mlp> experts;
  for (size_t g = 0; g < table.num_groups; ++g)
    for (size_t e = 0; e < table.experts_per_group; ++e) {
      models::Mlp mlp = records.layouts[g].expert_at(file->bytes().data() + records.offset(g, e));
      experts.push_back(std::move(mlp));
    }
  // The matrices look into the map: it lives as long as they do.
  struct Mapped final : models::ExpertStore {
    std::shared_ptr<const MappedFile> file;
    std::unique_ptr<models::ExpertStore> experts;
    std::unique_ptr<ExpertPass> make_pass() override { return experts->make_pass(); }
    size_t memory_bytes() const override { return 0; }
  };
  auto mapped = std::make_unique<Mapped>();
  mapped->file = file;
  mapped->experts = make_resident_experts(table, std::move(experts));
  return mapped;
}

}  // namespace weft::bench
