// The commands under `weft eval`.
#pragma once

#include <CLI/CLI.hpp>

#include "base/interrupt.h"

namespace weft::cli {

void add_eval_experts(CLI::App& parent, StopToken stop);
void add_eval_kv(CLI::App& parent, StopToken stop);
void add_eval_kv_tasks(CLI::App& parent, StopToken stop);
void add_eval_reason(CLI::App& parent, StopToken stop);

}  // namespace weft::cli
