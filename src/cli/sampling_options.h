// The sampling flags of generate, chat and serve.
#pragma once

#include <CLI/CLI.hpp>

#include "text/sampler.h"

namespace weft::cli {

// Adds the flags, with what `options` holds as their defaults. `options` must live until the command
// has run, which calls text::validate(options) before it loads a model.
void add_sampling_options(CLI::App& command, text::SamplingOptions& options);

// --seed; without it the seed comes from the system's random source.
void add_seed_option(CLI::App& command, text::SamplingOptions& options);

}  // namespace weft::cli
