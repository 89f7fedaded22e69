// The parts of `weft bench flashoverlap`.
#pragma once

#include <filesystem>
#include <string>

#include "bench/report.h"
#include "parallel/flash_overlap/overlap.h"

namespace weft::bench {

// What the latency model foretells for the paper's machines, beside what the paper measured there.
Table published_table();

// Writes what a call did when: tiles by core, and the groups below them. kIo.
void write_timeline(const parallel::flash_overlap::Trace& trace, const std::string& what,
                    const std::filesystem::path& path);

}  // namespace weft::bench
