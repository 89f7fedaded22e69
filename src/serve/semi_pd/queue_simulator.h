// Prefill's queue and decode's loop as a discrete-event simulation: what the queueing formulas and
// the controller are checked against, and a stand-in for machines that are not there.
//
// Prompts are prefilled one after the other, in the order of arrival. A request whose prompt is
// done has its first token and joins the decode batch when the running step ends. Each phase
// advances at the speed that PhaseSpeeds gives it: contended while the other has work, alone
// otherwise.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

#include "serve/semi_pd/partition.h"
#include "serve/semi_pd/phase_speeds.h"
#include "serve/semi_pd/window.h"

namespace weft::serve::semi_pd {

struct SimulatedRequest {
  double arrival_s = 0;
  double prompt_tokens = 0;
  size_t answer_tokens = 1;
};

struct ServedRequest {
  double arrival_s = 0, wait_s = 0, ttft_s = 0;  // wait: until its prefill began
  std::optional<double> tpot_s;                  // of two tokens or more
};

// The p-quantile (nearest rank); nothing of nothing.
std::optional<double> quantile(std::vector<double> values, double p);

class QueueSimulator {
 public:
  QueueSimulator(PhaseSpeeds speeds, const Partition& partition, double percentile);

  void submit(const SimulatedRequest& request);  // in the order of arrival, not in the past
  void run_until(double time_s);
  void apply(const Partition& partition);  // from now on
  Window take_window();                    // since the last call
  struct Moment {
    double worst_gap_s = 0, backlog_age_s = 0;  // as in Window
  };
  Moment moment() const;  // now
  std::vector<ServedRequest>
  take_served();  // finished since the last call, by time of the last token
  double now_s() const { return now_s_; }

 private:
  struct Running {
    SimulatedRequest request;
    ServedRequest served = {};
    double context_tokens = 0;
    size_t tokens = 1;  // of the answer, so far
    double last_token_s = 0;
  };

  bool prefill_busy() const { return !waiting_.empty(); }
  bool decode_busy() const { return !batch_.empty(); }
  DecodeBatch batch_load() const;
  void advance(double seconds, double prefill_s_per_token, double step_s);
  void arrive();
  void finish_prompt();
  void finish_step();
  void finish(const Running& running);

  PhaseSpeeds speeds_;
  Partition partition_;
  double percentile_;
  double now_s_ = 0, applied_s_ = 0;

  std::deque<SimulatedRequest> future_;
  std::deque<Running> waiting_;   // the first is in prefill
  double prompt_left_ = 0;        // tokens of the first
  std::vector<Running> batch_;    // in decode
  std::vector<Running> joining_;  // when the step ends
  double step_left_ = 1;          // of the running step, as a share

  // Of the window.
  Window window_;
  double window_began_s_ = 0, running_sum_ = 0, context_sum_ = 0;
  std::vector<double> prompts_, ttfts_, tpots_;
  std::vector<ServedRequest> served_;
};

}  // namespace weft::serve::semi_pd
