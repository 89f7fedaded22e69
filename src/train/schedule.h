// The learning rate over a run.
#pragma once

#include "train/config.h"

namespace weft::train {

// Part of the largest rate, 0 to 1, when `done` (0 to 1) of the run is behind: it rises in
// `warmup`, then falls by half a cosine to final_lr (arXiv 1608.03983), or stays until the last
// fifth and falls in a line (warm-up, stable, decay: arXiv 2404.06395).
double rate_at(const Config& config, double done);
// How much of the run is behind: by steps or by seconds, whichever is further.
double part_done(const Config& config, size_t step, double seconds);

}  // namespace weft::train
