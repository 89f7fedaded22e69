// The waiting line in front of prefill. Times in seconds; service times have mean s and second
// moment s2, requests arrive at random at rate r, utilisation rho = r * s. Where rho >= 1 the line
// grows without bound and the answer is infinite.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace weft::serve::semi_pd {

inline constexpr double kUnbounded = std::numeric_limits<double>::infinity();

// M/M/1, §5.1: mean time from arrival to end of service, w = 1 / (mu - r) with mu = 1 / s.
inline double mm1_sojourn(double r, double s) { return r * s < 1 ? s / (1 - r * s) : kUnbounded; }

// The sojourn of M/M/1 is exponential, so its p-quantile is w ln(1 / (1 - p)): 2.30 w for P90.
inline double mm1_sojourn_quantile(double r, double s, double p) {
  return mm1_sojourn(r, s) * std::log(1 / (1 - p));
}

// M/G/1, Pollaczek-Khinchine: mean time before service begins.
inline double mg1_wait(double r, double s, double s2) {
  return r * s < 1 ? r * s2 / (2 * (1 - r * s)) : kUnbounded;
}

// Its p-quantile, with the wait of those who wait at all (a share rho of them) taken as
// exponential: exact for M/M/1, the limit for every service time as rho -> 1, and an estimate in
// between.
inline double mg1_wait_quantile(double r, double s, double s2, double p) {
  const double rho = r * s;
  if (rho >= 1) return kUnbounded;
  if (rho <= 1 - p) return 0;  // fewer than 1 - p wait
  return mg1_wait(r, s, s2) / rho * std::log(rho / (1 - p));
}

// A busy share `u` of the time as the p-quantile of requests meets it: the share of a request's
// life that falls into busy time has mean u, so by Markov's inequality no more than 1 - p of the
// requests see more than u / (1 - p) of it.
inline double exposure_quantile(double u, double p) { return std::clamp(u / (1 - p), 0.0, 1.0); }

}  // namespace weft::serve::semi_pd
