// A command of the program: one file each, one line each in main.cc's table.
#pragma once

#include <CLI/CLI.hpp>

#include "base/interrupt.h"

namespace weft::cli {

// Adds the subcommand with its options and its callback. A callback parses, calls the library, prints;
// it throws weft::Error, and main turns that into one line on stderr and an exit code.
using AddCommand = void (*)(CLI::App& program, StopToken stop);

}  // namespace weft::cli
