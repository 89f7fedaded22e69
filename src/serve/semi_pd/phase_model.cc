#include "serve/semi_pd/phase_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "serve/semi_pd/queueing.h"

namespace weft::serve::semi_pd {
namespace {

// Beyond it the queue's formulas explode while a real window sees a backlog that grows slowly: no
// partition this full is worth choosing.
constexpr double kFullest = 0.95;

// Weight of an observation in the moving averages: half of it comes from the last two windows.
constexpr double kNewest = 0.3;
// A correction beyond this says that the profile is of another machine, not that queues differ.
const double kLargestLog = std::log(4.0);

// Nothing takes no time, even where a share of 0 makes a token take for ever.
double time_of(double amount, double seconds_each) {
  return amount > 0 ? amount * seconds_each : 0;
}

void follow_ratio(double& log_correction, double observed, double predicted) {
  if (!(observed > 0) || !(predicted > 0) || !std::isfinite(observed / predicted)) return;
  const double log_ratio = std::clamp(std::log(observed / predicted), -kLargestLog, kLargestLog);
  log_correction += kNewest * (log_ratio - log_correction);
}

void follow(std::optional<double>& mean, const std::optional<double>& value) {
  if (value) mean = mean ? *mean + kNewest * (*value - *mean) : *value;
}

}  // namespace

SloModel parse_slo_model(std::string_view text) {
  for (const SloModel model : {SloModel::kMm1, SloModel::kMg1, SloModel::kTable})
    if (text == to_string(model)) return model;
  fail(ErrorKind::kInvalidInput, "--slo-model {}: expected mm1, mg1 or table", text);
}

std::string to_string(SloModel model) {
  return model == SloModel::kMm1 ? "mm1" : model == SloModel::kMg1 ? "mg1" : "table";
}

void FadingLine::Sums::add(double at_u, double at_y, double weight) {
  w += weight;
  u += weight * at_u;
  y += weight * at_y;
  uu += weight * at_u * at_u;
  uy += weight * at_u * at_y;
}

void FadingLine::observe(double u, double y) {
  constexpr double kKeep = 0.9;
  for (double* sum : {&seen_.w, &seen_.u, &seen_.y, &seen_.uu, &seen_.uy}) *sum *= kKeep;
  seen_.add(u, y, 1);
}

void FadingLine::add_prior(double u, double y, double weight) { prior_.add(u, y, weight); }

double FadingLine::at(double u) const {
  const double w = seen_.w + prior_.w;
  if (w == 0) return 0;
  const double mean_u = (seen_.u + prior_.u) / w, mean_y = (seen_.y + prior_.y) / w;
  const double variance = (seen_.uu + prior_.uu) / w - mean_u * mean_u;
  const double covariance = (seen_.uy + prior_.uy) / w - mean_u * mean_y;
  // Points at one u alone: the slope is unknown, 0.
  const double slope = variance > 1e-12 * mean_u * mean_u ? covariance / variance : 0;
  return mean_y + slope * (u - mean_u);
}

PhaseModel::PhaseModel(SloModel model, PhaseProfile profile, double percentile, size_t chunk_tokens)
    : model_(model), speeds_(std::move(profile), chunk_tokens), percentile_(percentile) {
  if (!(percentile > 0 && percentile < 1))
    fail(ErrorKind::kInvalidInput, "a percentile of {}, expected a share between 0 and 1",
         percentile);
}

double PhaseModel::unloaded_ttft_s(double prompt_tokens) const {
  return prompt_tokens * speeds_.prefill_s_per_token(speeds_.num_cores());
}

double PhaseModel::unloaded_tpot_s(double context_tokens) const {
  return speeds_.step_s(speeds_.num_cores(), {.requests = 1, .context_tokens = context_tokens});
}

void PhaseModel::learn(const Partition& partition, const Load& load, const Window& window) {
  const Prediction raw = raw_mg1(partition, load);
  if (window.ttft_s) follow_ratio(log_ttft_correction_, *window.ttft_s, raw.ttft_s);
  if (window.tpot_s) follow_ratio(log_tpot_correction_, *window.tpot_s, raw.tpot_s);

  const double x = percent(prefill_share(partition, speeds_.num_cores()));
  const double y = percent(decode_share(partition, speeds_.num_cores()));
  const double free_share = x - lambda(load);
  if (window.ttft_s && free_share > (1 - kFullest) * x)
    ttft_line_.observe(1 / free_share, *window.ttft_s);
  if (window.tpot_s) tpot_line_.observe(1 / y, *window.tpot_s);

  if (model_ != SloModel::kTable || (!window.ttft_s && !window.tpot_s)) return;
  Seen& seen = table_[cell(partition, load)];
  follow(seen.ttft_s, window.ttft_s);
  follow(seen.tpot_s, window.tpot_s);
}

Prediction PhaseModel::predict(const Partition& partition, const Load& load) const {
  if (model_ == SloModel::kMm1) return predict_mm1(partition, load);
  Prediction prediction = predict_mg1(partition, load);
  if (model_ != SloModel::kTable) return prediction;
  const auto found = table_.find(cell(partition, load));
  if (found == table_.end()) return prediction;
  // What waits now is no average: it stays a lower bound.
  const double backlog_s = time_of(
      load.backlog_tokens(), speeds_.prefill_s_per_token(partition, load.decode_busy(),
                                                         {load.running(), load.context_tokens()}));
  if (found->second.ttft_s) prediction.ttft_s = std::max(*found->second.ttft_s, backlog_s);
  if (found->second.tpot_s) prediction.tpot_s = *found->second.tpot_s;
  return prediction;
}

// With S = E[S] of a prompt token at the mean exposure to decode, and S_p at the p-quantile's:
//   ttft = max(Q_p(wait) + tokens_p S_p, backlog S_p + tokens_p S_p)
Prediction PhaseModel::raw_mg1(const Partition& partition, const Load& load) const {
  const DecodeBatch batch{load.running(), load.context_tokens()};
  const double busy = load.running() > 0 ? load.decode_busy() : 0;
  const double r = load.arrival_rate();
  const double s = speeds_.prefill_s_per_token(partition, busy, batch);
  const double s_p =
      speeds_.prefill_s_per_token(partition, exposure_quantile(busy, percentile_), batch);
  const double mean = time_of(load.mean_tokens(), s);
  const double second = time_of(time_of(load.mean_tokens_squared(), s), s);

  Prediction prediction;
  prediction.prefill_utilisation = time_of(r, mean);
  const double wait = prediction.prefill_utilisation < kFullest
                          ? mg1_wait_quantile(r, mean, second, percentile_)
                          : kUnbounded;
  prediction.ttft_s =
      std::max(wait, time_of(load.backlog_tokens(), s_p)) + time_of(load.tokens_quantile(), s_p);
  prediction.tpot_s = speeds_.step_s(
      partition, exposure_quantile(std::min(1.0, prediction.prefill_utilisation), percentile_),
      {std::max(1.0, batch.requests), batch.context_tokens});
  return prediction;
}

Prediction PhaseModel::predict_mg1(const Partition& partition, const Load& load) const {
  Prediction prediction = raw_mg1(partition, load);
  prediction.ttft_s *= std::exp(log_ttft_correction_);
  prediction.tpot_s *= std::exp(log_tpot_correction_);
  return prediction;
}

double PhaseModel::percent(double cores) const {
  return 100 * cores / static_cast<double>(speeds_.num_cores());
}

// lambda = 100 r l_100: the share at which prefill just keeps up. It follows from the arrivals, so
// it is not fitted (a1, lambda and b1 together are unidentifiable from the few x that occur).
double PhaseModel::lambda(const Load& load) const {
  return 100 * load.arrival_rate() * unloaded_ttft_s(load.mean_tokens());
}

// The prior: w = 1 / (mu_x - r) = 100 l_100 / (x - lambda) at its p-quantile, and the profile's
// steps, at every partition to choose from. Together they weigh as much as four observations.
FadingLine PhaseModel::with_prior(FadingLine line, bool of_ttft, const Load& load) const {
  const size_t num_cores = speeds_.num_cores();
  const auto candidates = automatic_partitions(num_cores);
  const double weight = 4.0 / static_cast<double>(candidates.size());
  const DecodeBatch batch{std::max(1.0, load.running()), load.context_tokens()};
  line.clear_prior();
  for (const Partition& partition : candidates) {
    const double x = percent(prefill_share(partition, num_cores));
    const double y = percent(decode_share(partition, num_cores));
    const double free_share = x - lambda(load);
    if (!of_ttft) {
      if (y > 0) line.add_prior(1 / y, speeds_.step_s(partition, 1, batch), weight);
    } else if (free_share > (1 - kFullest) * x) {
      const double a1 = 100 * unloaded_ttft_s(load.mean_tokens()) * std::log(1 / (1 - percentile_));
      line.add_prior(1 / free_share, a1 / free_share, weight);
    }
  }
  return line;
}

Prediction PhaseModel::predict_mm1(const Partition& partition, const Load& load) const {
  const size_t num_cores = speeds_.num_cores();
  const double x = percent(prefill_share(partition, num_cores));
  const double y = percent(decode_share(partition, num_cores));
  const double free_share = x - lambda(load);
  Prediction prediction;
  prediction.prefill_utilisation = x > 0 ? lambda(load) / x : kUnbounded;
  prediction.ttft_s = free_share > (1 - kFullest) * x
                          ? std::max(0.0, with_prior(ttft_line_, true, load).at(1 / free_share))
                          : kUnbounded;
  prediction.tpot_s =
      y > 0 ? std::max(0.0, with_prior(tpot_line_, false, load).at(1 / y)) : kUnbounded;
  return prediction;
}

PhaseModel::Cell PhaseModel::cell(const Partition& partition, const Load& load) const {
  const double utilisation = std::min(10.0, lambda(load) / 100);
  return {to_string(partition), static_cast<int>(utilisation * 10),
          static_cast<int>(std::lround(std::log2(std::max(1.0, load.running()))))};
}

}  // namespace weft::serve::semi_pd
