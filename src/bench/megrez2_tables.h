// The tables of `weft bench megrez2` beside that of decoding; each adds itself and its figures to
// the report.
#pragma once

#include <filesystem>

#include "bench/megrez2_setup.h"
#include "bench/report.h"

namespace weft::bench {

// Several sequences at once: a step wants the union of what they chose.
void bench_batches(MixtureSetup& setup, const ExpertDisk& disk, Report& report);
// A long prompt visits nearly every expert: each is read once a chunk.
void bench_prefill(MixtureSetup& setup, const ExpertDisk& disk, Report& report);
// Whole processes of `weft generate`: their memory at its peak against what they were given.
// Comes first: a child's peak is no less than what its parent had when it began. Makes the pack.
void bench_memory(const BenchOptions& options, const std::filesystem::path& model,
                  const std::filesystem::path& pack, const CoreSet& cores, Report& report);
// A mixture of the same active size whose layers share nothing: what its experts take, how fast it
// is, and llama.cpp on the same file.
void bench_unshared(const BenchOptions& options, const std::filesystem::path& shared,
                    const std::filesystem::path& unshared, const CoreSet& cores, double shared_s,
                    Report& report);

// Servers with all, half and a quarter of the experts in memory, in turns: answers (the same),
// speed, what was read, and their memory. Makes the pack.
void bench_server(const BenchOptions& options, const std::filesystem::path& model,
                  const std::filesystem::path& pack, size_t threads, Report& report);

// Less memory than the whole model needs (a control group's limit): what slots make of it, and what
// the page cache does.
bool memory_is_limited(const models::MemoryPlan& plan);
void bench_limited(MixtureSetup& setup, Report& report);

}  // namespace weft::bench
