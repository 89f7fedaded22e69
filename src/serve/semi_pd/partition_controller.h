// Moves cores between prefill and decode so that users get what the SLO promises (semi-PD, arXiv
// 2504.19867 §5.2, algorithm 1). The paper steps x or y up until its model is content; here the few
// partitions that exist are all predicted, and the one with the most slack
//     slack(q) = min((S_p - ttft) / S_p, (S_d - tpot) / S_d)
// is taken if it is better than the current one by more than noise. (The paper's listing never
// counts its steps, uses x' before defining it, and leaves out the case that both SLOs fail.)
//
// Logic alone: who calls it keeps the time. One thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "serve/semi_pd/partition.h"
#include "serve/semi_pd/phase_model.h"
#include "serve/semi_pd/slo.h"
#include "serve/semi_pd/window.h"

namespace weft::serve::semi_pd {

struct ControllerOptions {
  Slo slo = {};
  SloModel model = SloModel::kMg1;
  size_t chunk_tokens = 512;  // of the unified loop
  double min_gain = 0.05;     // of slack: less is noise
  size_t dwell_windows = 2;   // TTFT reacts a queue later than the switch
  // A bound that every partition to choose from must keep.
  std::optional<double> max_stall_s = {};
  // The unified loop shares each step out by deadlines (promises.h), which no model here knows of. It
  // is where things begin and where they go when no partition is predicted to keep the promises, and
  // it is left only when one is broken there.
  bool one_loop_knows_promises = false;
  bool shed = false;          // refuse requests when neither SLO can be met
  // A window is over after this time or so many decode steps, whichever is later.
  double window_s = 2;
  uint64_t window_steps = 200;
};

enum class Reason {
  kKept,       // nothing is better by more than min_gain, or it is too early
  kUnsound,    // the window was not usable
  kIdle,       // nothing arrived, nothing runs
  kNoRoom,     // moved: no partition is predicted to keep them, one loop wastes the least
  kBothFail,   // both SLOs are missed and no partition is predicted to meet them: there is no room
  kMoreSlack,  // moved: better by more than min_gain
  kViolated,   // moved at once: an SLO is missed, another partition is predicted to meet both
  kDecodeStalled,
  kPromptOverdue,  // moved at once, see emergency()
};
const char* name(Reason reason);

struct Candidate {
  Partition partition;
  Prediction predicted;
  double slack = 0;
};

struct Decision {
  Partition partition;  // from now on
  bool moved = false;
  Reason reason = Reason::kKept;
  std::vector<Candidate> candidates = {};  // empty if nothing was predicted
  Prediction predicted = {};               // of the partition before, for the window that has ended
  // Requests should be refused (429) for this long.
  std::optional<double> retry_after_s = std::nullopt;
};

class PartitionController {
 public:
  // Starts at `first`, one loop if it knows promises, or the automatic partition nearest to equal shares. kInvalidInput as
  // PhaseSpeeds.
  PartitionController(ControllerOptions options, PhaseProfile profile,
                      std::optional<Partition> first = std::nullopt);

  const Partition& current() const { return current_; }
  bool window_is_over(double seconds, uint64_t decode_steps) const;

  // At the end of each window.
  Decision decide(const Window& window);

  // Any time, between windows too: a running request has waited more than 2 S_d for its next token
  // (decode gets the next larger share of at least a core), or the oldest prompt more than S_p for
  // its first (prefill likewise). Gives the new partition, once a window at most; nothing if both
  // are late, if there is no larger share, or if the other emergency moved within the dwell.
  std::optional<Partition> emergency(double worst_gap_s, double backlog_age_s);

  // The SLO, with 10 times the unloaded values where the user gave none. Of prompts as long as
  // those that arrive; before the first arrives, of 256 tokens.
  SloTargets targets() const;

 private:
  void move_to(const Partition& partition);
  std::vector<Candidate> predict_all() const;
  double slack(const Prediction& prediction) const;
  std::optional<double> shedding(const Prediction& best) const;

  ControllerOptions options_;
  PhaseModel model_;
  std::vector<Partition> partitions_;
  Partition current_;
  Load load_;
  size_t windows_here_ = 0;  // since the last move
  bool emergency_used_ = false;
  Reason last_move_ = Reason::kKept;
};

// One line for the log: partition, reason, predicted and observed.
std::string describe(const Decision& decision, const Window& window);

}  // namespace weft::serve::semi_pd
