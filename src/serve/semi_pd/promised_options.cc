#include <algorithm>

#include "serve/semi_pd/executor.h"

namespace weft::serve::semi_pd {

SemiPdOptions with_promises(SemiPdOptions options) {
  const bool promised = options.controller.slo.ttft_s || options.controller.slo.tpot_s;
  if (options.partition && !(promised && !options.profile.on_cores.empty())) return options;
  const PhaseModel model(SloModel::kMg1, options.profile, options.controller.slo.percentile);
  const SloTargets slo = PartitionController(options.controller, options.profile).targets();
  const double s_per_token = model.speeds().prefill_s_per_token(options.num_cores);
  // What is left of a token's time for scheduling and for steps that take longer than they should.
  constexpr double kOfTpot = 0.8;
  // Two tokens' time is what the paper's users do not notice yet, as taste goes; four is a text
  // that still moves.
  options.promises = {.ttft_s = slo.ttft_s,
                      .tpot_s = slo.tpot_s,
                      .longest_gap_s = options.max_stall_s.value_or(2 * slo.tpot_s),
                      .longest_rest_s = options.max_stall_s.value_or(4 * slo.tpot_s)};
  options.controller.max_stall_s = options.max_stall_s;
  options.controller.one_loop_knows_promises = true;
  if (!options.max_stall_s) options.max_stall_s = kOfTpot * slo.tpot_s;
  const double fit = *options.max_stall_s / s_per_token;
  options.controller.chunk_tokens =
      static_cast<size_t>(std::clamp(fit, 1.0, static_cast<double>(options.chunk_tokens)));
  options.order.promised_ttft_s = slo.ttft_s;
  options.order.s_per_token = s_per_token;
  // A prompt that came too late for its promise still gets its turn.
  constexpr double kAtMost = 10;
  options.order.small_first_until_s = kAtMost * slo.ttft_s;
  return options;
}

}  // namespace weft::serve::semi_pd
