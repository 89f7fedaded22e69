#include "serve/semi_pd/phase_speeds.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace weft::serve::semi_pd {
namespace {

using Kind = Partition::Kind;

void check(const char* name, double value, double least) {
  if (!std::isfinite(value) || value < least || (least == 0 && value == 0))
    fail(ErrorKind::kInvalidInput, "profile of the phases: {} is {}, expected {} {}", name, value,
         least == 0 ? "more than" : "at least", least);
}

// Time per unit when a share `exposure` of the time runs at one speed and the rest at another.
double blend(double alone, double contended, double exposure) {
  return 1 / ((1 - exposure) / alone + exposure / contended);
}

}  // namespace

PhaseSpeeds::PhaseSpeeds(PhaseProfile profile, size_t chunk_tokens)
    : profile_(std::move(profile)),
      chunk_tokens_(static_cast<double>(std::max<size_t>(1, chunk_tokens))) {
  if (profile_.on_cores.empty())
    fail(ErrorKind::kInvalidInput, "profile of the phases: no core was measured");
  for (const auto& speed : profile_.on_cores) {
    check("seconds per prompt token", speed.prompt_s_per_token, 0);
    check("bytes/s of decode", speed.decode_bytes_per_s, 0);
    check("operations/s of decode", speed.decode_flops_per_s, 0);
  }
  check("slowdown of prefill", profile_.prefill_slowdown, 1);
  check("slowdown of decode", profile_.decode_slowdown, 1);
  check("bytes of weights", profile_.weight_bytes, 0);
  check("operations per token", profile_.flops_per_token, 0);
  if (!(profile_.kv_bytes_per_token >= 0) || !(profile_.step_overhead_s >= 0))
    fail(ErrorKind::kInvalidInput, "profile of the phases: KV bytes or step overhead is negative");
}

double PhaseSpeeds::prefill_s_per_token(size_t cores) const {
  return cores == 0 ? INFINITY : profile_.on_cores[cores - 1].prompt_s_per_token;
}

double PhaseSpeeds::step_s(size_t cores, const DecodeBatch& batch) const {
  if (cores == 0) return INFINITY;
  const auto& speed = profile_.on_cores[cores - 1];
  const double bytes =
      profile_.weight_bytes + batch.requests * batch.context_tokens * profile_.kv_bytes_per_token;
  return std::max(bytes / speed.decode_bytes_per_s,
                  batch.requests * profile_.flops_per_token / speed.decode_flops_per_s) +
         profile_.step_overhead_s;
}

double PhaseSpeeds::contended_prefill(const Partition& partition, const DecodeBatch& batch) const {
  const size_t c = num_cores(), p = partition.prefill_cores;
  const size_t own = std::min(p, c - partition.decode_cores);
  switch (partition.kind) {
    case Kind::kUnified:  // each chunk takes the running requests along: one step more to do
      return prefill_s_per_token(c) + (batch.requests > 0 ? step_s(c, batch) / chunk_tokens_ : 0);
    case Kind::kApart:
      return prefill_s_per_token(p) * profile_.prefill_slowdown;
    case Kind::kTurns:
      return blend(prefill_s_per_token(own) * profile_.prefill_slowdown, prefill_s_per_token(p),
                   partition.prefill_duty);
    case Kind::kSteps: {
      const double step = step_s(partition.decode_cores, batch);
      const double turn = prefill_turn_s(partition.max_stall_s, step);
      return prefill_s_per_token(p) * (turn + step) / turn;
    }
    case Kind::kFree:
      return prefill_s_per_token(p) * 2 * profile_.prefill_slowdown;
  }
  return INFINITY;
}

double PhaseSpeeds::contended_step(const Partition& partition, const DecodeBatch& batch) const {
  const size_t c = num_cores(), d = partition.decode_cores;
  const size_t own = std::min(d, c - partition.prefill_cores);
  switch (partition.kind) {
    case Kind::kUnified:
      return chunk_tokens_ * prefill_s_per_token(c) + step_s(c, batch);
    case Kind::kApart:
      return step_s(d, batch) * profile_.decode_slowdown;
    case Kind::kTurns:
      return blend(step_s(own, batch) * profile_.decode_slowdown, step_s(d, batch),
                   1 - partition.prefill_duty);
    case Kind::kSteps:
      return step_s(d, batch) + prefill_turn_s(partition.max_stall_s, step_s(d, batch));
    case Kind::kFree:
      return step_s(d, batch) * 2 * profile_.decode_slowdown;
  }
  return INFINITY;
}

double PhaseSpeeds::prefill_s_per_token(const Partition& partition, double exposure,
                                        const DecodeBatch& batch) const {
  const double alone = prefill_s_per_token(partition.lend ? num_cores() : partition.prefill_cores);
  return blend(alone, contended_prefill(partition, batch), exposure);
}

double PhaseSpeeds::step_s(const Partition& partition, double exposure,
                           const DecodeBatch& batch) const {
  const double alone = step_s(partition.lend ? num_cores() : partition.decode_cores, batch);
  return blend(alone, contended_step(partition, batch), exposure);
}

}  // namespace weft::serve::semi_pd
