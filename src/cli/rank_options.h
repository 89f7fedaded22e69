// The flags of commands that several ranks can run together (mpirun, srun), and their meeting.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <filesystem>
#include <memory>

#include "parallel/crew.h"

namespace weft::cli {

struct RankOptions {
  size_t tensor = 0, sequence = 1;  // tensor 0: the number of ranks / sequence
  std::string exchange = "tasp", cache = "divided", overlap = "on";
  std::string tunings;  // a file, "none", or empty: the default one
};

void add_rank_options(CLI::App& command, RankOptions& options);

// Null where no launcher has started several processes (kInvalidInput if ranks were asked for all
// the same). Else rank 0 gets the crew, with all ranks agreed on version, model and plan; the
// others load their share, follow until rank 0 dismisses them, and end the process here.
std::shared_ptr<parallel::Crew> meet_ranks(
    const RankOptions& options, const std::filesystem::path& model, size_t threads,
    models::HeadLoading head = models::HeadLoading::kNow);

// Tokens of a prompt in one pass: every team has as many to work on as one process would.
size_t prompt_chunk(const parallel::Crew& crew);

// Ends the job of all ranks, where this process is one, after an error was printed; else does
// nothing.
void end_job_after_error(int exit_code);
// What is put before the words of an error: "rank 2: ", or nothing for one process.
std::string rank_prefix();

}  // namespace weft::cli
