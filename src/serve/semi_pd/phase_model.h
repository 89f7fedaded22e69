// What TTFT and TPOT to expect under each partition (semi-PD, arXiv 2504.19867 §5.1), three ways:
//
//   mm1    the paper's: TTFT(x) = a1 / (x - lambda) + b1, TPOT(y) = a2 / y + b2 with x, y in per
//   cent
//          of the machine and lambda = 100 r l_100; a1, b1, a2, b2 are refitted online.
//   mg1    the profile's speeds with an M/G/1 queue (Pollaczek-Khinchine), since prompt lengths are
//          heavy-tailed; times a correction, the moving ratio of observed to predicted.
//   table  what was seen under a partition at a similar load; mg1 where nothing was.
//
// The paper predicts means, an SLO is about a percentile: every prediction here is a p-quantile.
// Pure arithmetic: no threads, no clock.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>

#include "serve/semi_pd/partition.h"
#include "serve/semi_pd/phase_speeds.h"
#include "serve/semi_pd/window.h"

namespace weft::serve::semi_pd {

enum class SloModel { kMm1, kMg1, kTable };
SloModel parse_slo_model(std::string_view text);  // kInvalidInput
std::string to_string(SloModel model);

struct Prediction {
  double ttft_s = 0, tpot_s = 0;   // infinite: the queue would grow without bound
  double prefill_utilisation = 0;  // rho
};

// y = a u + b by least squares over observations that fade, and over points of a prior that do not.
// One operating point does not tell a from b; with the prior's points beside it, it moves both no
// further than it must.
class FadingLine {
 public:
  void observe(double u, double y);  // the earlier ones lose a tenth of their weight
  void clear_prior() { prior_ = {}; }
  void add_prior(double u, double y, double weight);
  double at(double u) const;  // 0 without any point

 private:
  struct Sums {
    double w = 0, u = 0, y = 0, uu = 0, uy = 0;
    void add(double at_u, double at_y, double weight);
  };
  Sums seen_, prior_;
};

class PhaseModel {
 public:
  // `percentile` of the SLO. kInvalidInput as PhaseSpeeds.
  PhaseModel(SloModel model, PhaseProfile profile, double percentile, size_t chunk_tokens = 512);

  // Under `partition` in this load, `window` was observed. Call it before predictions that shall
  // know of it. Does nothing without observations.
  void learn(const Partition& partition, const Load& load, const Window& window);
  Prediction predict(const Partition& partition, const Load& load) const;

  // A request alone on all cores.
  double unloaded_ttft_s(double prompt_tokens) const;
  double unloaded_tpot_s(double context_tokens) const;

  const PhaseSpeeds& speeds() const { return speeds_; }

 private:
  // Partition, utilisation in tenths, log2 of the running batch.
  using Cell = std::tuple<std::string, int, int>;
  struct Seen {
    std::optional<double> ttft_s, tpot_s;
  };

  Prediction raw_mg1(const Partition& partition, const Load& load) const;
  Prediction predict_mg1(const Partition& partition, const Load& load) const;
  Prediction predict_mm1(const Partition& partition, const Load& load) const;
  FadingLine with_prior(FadingLine line, bool of_ttft, const Load& load) const;
  Cell cell(const Partition& partition, const Load& load) const;
  double lambda(const Load& load) const;
  double percent(double cores) const;

  SloModel model_;
  PhaseSpeeds speeds_;
  double percentile_;
  double log_ttft_correction_ = 0, log_tpot_correction_ = 0;  // mg1, table
  FadingLine ttft_line_, tpot_line_;  // mm1, over 1 / (x - lambda) and 1 / y
  std::map<Cell, Seen> table_;
};

}  // namespace weft::serve::semi_pd
