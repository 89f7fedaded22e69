// Every command of the program, in the order `weft --help` shows them.
#pragma once

#include "cli/command.h"

namespace weft::cli {

void add_chat(CLI::App& program, StopToken stop);
void add_generate(CLI::App& program, StopToken stop);
void add_serve(CLI::App& program, StopToken stop);
void add_perplexity(CLI::App& program, StopToken stop);
void add_eval(CLI::App& program, StopToken stop);
void add_task(CLI::App& program, StopToken stop);
void add_calibrate(CLI::App& program, StopToken stop);
void add_inspect(CLI::App& program, StopToken stop);
void add_tokenize(CLI::App& program, StopToken stop);
void add_quantize(CLI::App& program, StopToken stop);
void add_train(CLI::App& program, StopToken stop);
void add_topo(CLI::App& program, StopToken stop);
void add_bench(CLI::App& program, StopToken stop);
void add_doctor(CLI::App& program, StopToken stop);

}  // namespace weft::cli
