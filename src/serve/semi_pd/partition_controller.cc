#include "serve/semi_pd/partition_controller.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace weft::serve::semi_pd {
namespace {

// Lengths for unloaded values before any request has shown its own: the paper's ShareGPT mean
// (251).
constexpr double kUsualPrompt = 256;

std::string milliseconds(double seconds) {
  return std::isfinite(seconds) ? fmt::format("{:.1f} ms", seconds * 1e3) : "unbounded";
}
std::string milliseconds(const std::optional<double>& seconds) {
  return seconds ? milliseconds(*seconds) : "none";
}

}  // namespace

const char* name(Reason reason) {
  switch (reason) {
    case Reason::kKept:
      return "kept";
    case Reason::kUnsound:
      return "unsound window";
    case Reason::kIdle:
      return "idle";
    case Reason::kNoRoom:
      return "no room";
    case Reason::kBothFail:
      return "both SLOs fail";
    case Reason::kMoreSlack:
      return "more slack";
    case Reason::kViolated:
      return "SLO violated";
    case Reason::kDecodeStalled:
      return "decode stalled";
    case Reason::kPromptOverdue:
      return "prompt overdue";
  }
  return "";
}

PartitionController::PartitionController(ControllerOptions options, PhaseProfile profile,
                                         std::optional<Partition> first)
    : options_(std::move(options)),
      model_(options_.model, std::move(profile), options_.slo.percentile, options_.chunk_tokens),
      partitions_(automatic_partitions(model_.speeds().num_cores(), options_.max_stall_s)) {
  const size_t num_cores = model_.speeds().num_cores();
  const auto distance = [&](const Partition& partition) {
    return std::abs(prefill_share(partition, num_cores) - decode_share(partition, num_cores)) +
           (partition.kind == Partition::Kind::kApart ? 0 : 0.01);
  };
  current_ = first                              ? *first
             : options_.one_loop_knows_promises ? unified(num_cores)
                                                : *std::min_element(partitions_.begin(), partitions_.end(),
                                       [&](const Partition& a, const Partition& b) {
                                         return distance(a) < distance(b);
                                       });
  if (std::find(partitions_.begin(), partitions_.end(), current_) == partitions_.end())
    partitions_.push_back(current_);  // the user's first choice stays one
}

bool PartitionController::window_is_over(double seconds, uint64_t decode_steps) const {
  // Where nothing is decoded, time alone ends a window; so that one does not last for ever, five
  // times the time ends it anyway.
  if (decode_steps == 0 || seconds >= 5 * options_.window_s) return seconds >= options_.window_s;
  return seconds >= options_.window_s && decode_steps >= options_.window_steps;
}

SloTargets PartitionController::targets() const {
  const double prompt = load_.mean_tokens() > 0 ? load_.mean_tokens() : kUsualPrompt;
  const double context = load_.context_tokens() > 0 ? load_.context_tokens() : kUsualPrompt;
  return semi_pd::targets(options_.slo, model_.unloaded_ttft_s(prompt),
                          model_.unloaded_tpot_s(context));
}

double PartitionController::slack(const Prediction& prediction) const {
  const SloTargets slo = targets();
  return std::min((slo.ttft_s - prediction.ttft_s) / slo.ttft_s,
                  (slo.tpot_s - prediction.tpot_s) / slo.tpot_s);
}

std::vector<Candidate> PartitionController::predict_all() const {
  std::vector<Candidate> candidates;
  for (const Partition& partition : partitions_) {
    const Prediction predicted = model_.predict(partition, load_);
    candidates.push_back({partition, predicted, slack(predicted)});
  }
  return candidates;
}

void PartitionController::move_to(const Partition& partition) {
  current_ = partition;
  windows_here_ = 0;
}

Decision PartitionController::decide(const Window& window) {
  emergency_used_ = false;
  Decision decision{.partition = current_, .reason = Reason::kUnsound};
  if (!is_sound(window)) return decision;
  ++windows_here_;
  load_.add(window);
  decision.predicted = model_.predict(current_, load_);
  decision.reason = Reason::kIdle;
  if (window.arrivals == 0 && window.running == 0 && window.backlog_tokens == 0) return decision;
  model_.learn(current_, load_, window);

  decision.candidates = predict_all();
  const auto by_slack = [](const Candidate& a, const Candidate& b) { return a.slack < b.slack; };
  const Candidate best =
      *std::max_element(decision.candidates.begin(), decision.candidates.end(), by_slack);
  const double here =
      std::find_if(decision.candidates.begin(), decision.candidates.end(), [&](const Candidate& c) {
        return c.partition == current_;
      })->slack;

  const SloTargets slo = targets();
  const bool ttft_fails = window.ttft_s.value_or(0) > slo.ttft_s;
  const bool tpot_fails = window.tpot_s.value_or(0) > slo.tpot_s;
  const bool feasible = best.slack > 0;
  decision.retry_after_s = shedding(best.predicted);
  decision.reason = Reason::kKept;
  const bool one_loop = current_.kind == Partition::Kind::kUnified;
  if (options_.one_loop_knows_promises && !feasible && !one_loop) {
    move_to(unified(model_.speeds().num_cores()));
    last_move_ = decision.reason = Reason::kNoRoom;
    decision.partition = current_;
    decision.moved = true;
    return decision;
  }
  if (ttft_fails && tpot_fails && !feasible) {
    decision.reason = Reason::kBothFail;
    return decision;
  }
  if (options_.one_loop_knows_promises && one_loop && !ttft_fails && !tpot_fails) return decision;
  if (!(best.slack > here)) return decision;  // also where no queue is bounded
  if ((ttft_fails || tpot_fails) && feasible) {
    decision.reason = Reason::kViolated;
  } else if (best.slack > here + options_.min_gain && windows_here_ >= options_.dwell_windows) {
    decision.reason = Reason::kMoreSlack;
  } else {
    return decision;
  }
  move_to(best.partition);
  last_move_ = decision.reason;
  decision.partition = current_;
  decision.moved = true;
  return decision;
}

std::optional<double> PartitionController::shedding(const Prediction& best) const {
  // 4 S_p: beyond it, taking one more request only makes more of them late.
  const SloTargets slo = targets();
  if (!options_.shed || !(best.ttft_s > 4 * slo.ttft_s)) return std::nullopt;
  const double drained_s =
      load_.backlog_tokens() * model_.speeds().prefill_s_per_token(model_.speeds().num_cores());
  return std::clamp(drained_s, 1.0, 60.0);
}

std::optional<Partition> PartitionController::emergency(double worst_gap_s, double backlog_age_s) {
  const SloTargets slo = targets();
  const bool stalled = worst_gap_s > 2 * slo.tpot_s && std::isfinite(worst_gap_s);
  const bool overdue = backlog_age_s > slo.ttft_s && std::isfinite(backlog_age_s);
  if (stalled == overdue || emergency_used_) return std::nullopt;
  if (options_.one_loop_knows_promises && current_.kind == Partition::Kind::kUnified)
    return std::nullopt;  // it sees each request's deadline itself
  const Reason reason = stalled ? Reason::kDecodeStalled : Reason::kPromptOverdue;
  const Reason opposite = stalled ? Reason::kPromptOverdue : Reason::kDecodeStalled;
  if (last_move_ == opposite && windows_here_ < options_.dwell_windows) return std::nullopt;

  const size_t num_cores = model_.speeds().num_cores();
  // One loop takes a whole chunk before each step, so there decode has nothing that is its own.
  const auto share = [&](const Partition& partition) {
    const bool one_loop = partition.kind == Partition::Kind::kUnified;
    if (stalled) return one_loop ? 0 : decode_share(partition, num_cores);
    return one_loop ? static_cast<double>(num_cores) : prefill_share(partition, num_cores);
  };
  const double least = std::max(share(current_) + 1e-9, 1.0);
  const Partition* next = nullptr;
  for (const Partition& partition : partitions_)
    if (share(partition) >= least && (next == nullptr || share(partition) < share(*next)))
      next = &partition;
  if (next == nullptr) return std::nullopt;
  const Partition chosen = *next;
  move_to(chosen);
  last_move_ = reason;
  emergency_used_ = true;
  return chosen;
}

std::string describe(const Decision& decision, const Window& window) {
  return fmt::format(
      "partition {} ({}): TTFT predicted {}, observed {}; TPOT predicted {}, observed {}; "
      "prefill busy {:.0f} %",
      to_string(decision.partition), name(decision.reason), milliseconds(decision.predicted.ttft_s),
      milliseconds(window.ttft_s), milliseconds(decision.predicted.tpot_s),
      milliseconds(window.tpot_s), 100 * decision.predicted.prefill_utilisation);
}

}  // namespace weft::serve::semi_pd
