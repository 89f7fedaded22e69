// How fast each phase runs under a partition: what `bench phase-curves` measured on whole cores,
// put together by the partition's arithmetic.
//
// A phase alone on c cores needs S(c) seconds for a prompt token, and for a decode step the larger
// of bytes / BW(c) and operations / F(c). While both phases work, a phase with own cores is slowed
// by its k (caches and memory are common). Turns add rates: prefill at duty d on C common cores
// works at d / S(C) tokens per second. That differs from S at a share of d * C cores, which the
// paper's curves over percentages of a GPU would give, for whatever does not scale: one core alone
// reads memory at more than half the rate of two.
#pragma once

#include <cstddef>
#include <vector>

#include "serve/semi_pd/partition.h"

namespace weft::serve::semi_pd {

struct PhaseProfile {
  struct OnCores {
    double prompt_s_per_token = 0;  // S
    double decode_bytes_per_s = 0;  // BW
    double decode_flops_per_s = 0;  // F
  };
  std::vector<OnCores> on_cores;  // [c - 1]: with c cores
  double prefill_slowdown = 1;  // k_p, k_d: time with both phases at work / time alone, at least 1
  double decode_slowdown = 1;

  double weight_bytes = 0;        // read by every decode step
  double kv_bytes_per_token = 0;  // of context
  double flops_per_token = 0;
  double step_overhead_s = 0;  // c0: sampling, hand-over, wake-ups
};

struct DecodeBatch {
  double requests = 1;
  double context_tokens = 0;  // of each
};

class PhaseSpeeds {
 public:
  // kInvalidInput names what is not a positive finite number. `chunk_tokens`: a prompt's piece in
  // one step of the unified loop.
  explicit PhaseSpeeds(PhaseProfile profile, size_t chunk_tokens = 512);

  size_t num_cores() const { return profile_.on_cores.size(); }
  const PhaseProfile& profile() const { return profile_; }

  double prefill_s_per_token(size_t cores) const;  // alone
  double step_s(size_t cores, const DecodeBatch& batch) const;

  // Under a partition. `exposure`, 0 to 1: share of the time in which the other phase works too.
  // An empty batch weighs nothing, so it leaves prefill alone.
  double prefill_s_per_token(const Partition& partition, double exposure,
                             const DecodeBatch& batch) const;
  double step_s(const Partition& partition, double exposure, const DecodeBatch& batch) const;

 private:
  double contended_prefill(const Partition& partition, const DecodeBatch& batch) const;
  double contended_step(const Partition& partition, const DecodeBatch& batch) const;

  PhaseProfile profile_;
  double chunk_tokens_;
};

}  // namespace weft::serve::semi_pd
