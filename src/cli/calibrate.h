// The commands of `weft calibrate`, a file each.
#pragma once

#include "cli/command.h"

namespace weft::cli {

void add_calibrate_kv(CLI::App& calibrate, StopToken stop);
void add_calibrate_vocab(CLI::App& calibrate, StopToken stop);

}  // namespace weft::cli
