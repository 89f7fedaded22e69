// The plain way to stream a mixture's experts, beside which `weft bench megrez2` puts ours: when a
// layer asks for experts, those that are missing are read one after the other, and the layer begins
// when all are there (docs/megrez2.md: a layer waits for all of m * record / rate). Slots, policy,
// disk and checksums are ours.
#pragma once

#include <memory>

#include "text/expert_stream/expert_stream.h"

namespace weft::bench {

// For one pass at a time, over as many slots as a layer wants experts at least.
class NaiveExperts final : public models::ExpertStore {
 public:
  NaiveExperts(const models::ExpertTable& table, text::RecordTable records,
               std::unique_ptr<text::RecordSource> source, size_t num_slots,
               text::ExpertPolicy policy);

  std::unique_ptr<models::ExpertPass> make_pass() override;
  size_t memory_bytes() const override { return arena_.bytes(); }
  const text::ExpertCounters& counters() const { return counters_; }

 private:
  class Pass;
  // Of its slot, read into one if it is in none.
  models::Mlp* load(size_t layer, uint32_t expert, const CoreSet& cores);

  const text::ExpertCacheShape shape_;
  const text::RecordTable records_;
  const std::unique_ptr<text::RecordSource> source_;
  const size_t slot_bytes_;
  Buffer arena_;
  text::ExpertCache cache_;
  std::vector<models::Mlp> experts_;  // by slot
  std::vector<uint8_t> may_go_;       // by slot: not of the layer that asks
  text::ExpertCounters counters_;
};

}  // namespace weft::bench
