#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weft::train {
namespace {
constexpr double kDecay = 0.2;  // of the run, in WSD: between the 10 and 20 % that its authors use
}

double rate_at(const Config& config, double done) {
  done = std::clamp(done, 0.0, 1.0);
  if (done < config.warmup) return done / config.warmup;
  const double low = config.final_lr;
  switch (config.schedule) {
    case Schedule::kCosine: {
      const double after = (done - config.warmup) / (1 - config.warmup);
      return low + (1 - low) * 0.5 * (1 + std::cos(std::numbers::pi * after));
    }
    case Schedule::kWsd:
      return done < 1 - kDecay ? 1 : low + (1 - low) * (1 - done) / kDecay;
    case Schedule::kConstant:
      return 1;
  }
  return 1;
}

double part_done(const Config& config, size_t step, double seconds) {
  double done = 0;
  if (config.steps != 0) done = static_cast<double>(step) / static_cast<double>(config.steps);
  if (config.max_seconds > 0) done = std::max(done, seconds / config.max_seconds);
  return done;
}

}  // namespace weft::train
