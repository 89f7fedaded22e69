// What `weft bench megrez2` puts under a mixture that it has loaded once: experts in memory, in
// slots, or wherever the page cache leaves them, taking turns; and a routing whose locality is
// known.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "formats/checkpoint.h"
#include "models/expert_store.h"
#include "text/expert_stream/expert_trace.h"

namespace weft::bench {

// Which experts each token of several sequences goes to in each layer, instead of what the gates of
// random weights say. A layer keeps each of a sequence's experts from token to token with
// `persistence`, and draws the others by popularity (Zipf, of exponent `skew`; which experts are
// popular is each group's own). The defaults find some nine of ten experts in half of the memory,
// as others report of real models (OLMoE: 94 %). Counter-based: the same options, the same routing.
struct RoutingOptions {
  double persistence = 0.8, skew = 0.8;
  size_t sequences = 1, tokens = 0;
  uint32_t seed = 1;
};
class Routing {
 public:
  Routing(const text::ExpertCacheShape& shape, size_t experts_per_token,
          const RoutingOptions& options);

  // Of one token, all sequences together, each expert once.
  const std::vector<uint32_t>& chosen(size_t token, size_t layer) const {
    return chosen_[token * num_layers_ + layer];
  }
  text::ExpertTrace trace(size_t first_token, size_t count) const;

 private:
  text::ExpertCacheShape shape_;
  size_t num_layers_;
  std::vector<std::vector<uint32_t>> chosen_;  // by token, by layer
};

// The experts of a loaded model, given by one store after another. For one pass at a time.
class ExchangedExperts final : public models::ExpertStore {
 public:
  // What loads a model so; `*made` is then the model's store.
  static models::OpenExperts opener(ExchangedExperts** made);

  const models::ExpertTable& table() const { return table_; }
  text::ExpertCacheShape shape() const;
  void use(models::ExpertStore* store);  // which outlives its use; nullptr ends it
  // nullptr: as the model's gates say. Else the gates' weights stay, and the experts are the
  // routing's of `token`.
  void route(const Routing* routing) { routing_ = routing; }
  void set_token(size_t token) { token_ = token; }
  // What the model's gates say from now on, visit by visit; nullptr: no longer.
  void record(text::ExpertTrace* trace) { recorded_ = trace; }

  // Whether passes told, until now, what their next layer would visit.
  bool looks_ahead() const { return looks_ahead_; }

  std::unique_ptr<models::ExpertPass> make_pass() override;
  size_t memory_bytes() const override { return 0; }

 private:
  class Pass;
  models::ExpertTable table_;
  std::unique_ptr<models::ExpertPass> inner_;
  const Routing* routing_ = nullptr;
  size_t token_ = 0;
  text::ExpertTrace* recorded_ = nullptr;
  bool looks_ahead_ = false;
};

// All experts in memory, packed from the model's file.
std::unique_ptr<models::ExpertStore> load_experts(const models::ExpertTable& table,
                                                  const formats::Checkpoint& checkpoint,
                                                  const CoreSet& cores);
// Computes with the mapped pack itself: the system reads what is not in its page cache, page by
// page, while a core waits.
std::unique_ptr<models::ExpertStore> map_experts(const models::ExpertTable& table,
                                                 const std::filesystem::path& pack);

}  // namespace weft::bench
