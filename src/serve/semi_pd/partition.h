// How prefill and decode share the cores (semi-PD, arXiv 2504.19867 §4.2 and §5.2, with core sets
// and turns in the place of percentages of a GPU). On a CPU few partitions differ enough to matter,
// so they are a list to choose from, not a pair of numbers to step through.
//
//   unified      one loop runs both phases: prompts in chunks, decode tokens in the same batch
//   1:1          the first core prefill's, the last decode's; an idle phase lends its cores
//   1:1,strict   the same without lending
//   2/2:0.35     both phases on both cores in turns, 35 % of the time prefill's
//   2/2:20ms     in turns, so that an answer waits 20 ms at most for its next token: prefill has what is
//                left of them after each decode step
//   2/2:free     both at once, the system shares out: the paper's (100, 100)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/core_share.h"

namespace weft::serve::semi_pd {

struct Partition {
  enum class Kind : uint8_t { kUnified, kApart, kTurns, kSteps, kFree };
  Kind kind = Kind::kUnified;
  size_t prefill_cores = 0, decode_cores = 0;  // all of them in kUnified
  double prefill_duty = 0;                     // kTurns: share of the time on common cores
  double max_stall_s = 0;                      // kSteps: between the ends of two decode steps
  bool lend = true;
  bool operator==(const Partition&) const = default;
};

Partition unified(size_t num_cores);
Partition by_steps(size_t num_cores, double max_stall_s);
// How long prefill may go on after a decode step that took `step_s`, for the next one to end in time.
// Where the bound leaves nothing, an eighth of a step: prompts must end some time.
double prefill_turn_s(double max_stall_s, double step_s);

// `auto` gives nothing: the controller decides. kInvalidInput says what the text lacks, names the
// forms above, and the number of cores where it is that which does not fit.
std::optional<Partition> parse_partition(std::string_view text, size_t num_cores);
std::string to_string(const Partition& partition);  // what parse_partition() reads

// All that differ on this many cores, duties in the five steps from 0.2 to 0.8.
std::vector<Partition> all_partitions(size_t num_cores);
// Those that the controller chooses from. Not strict (never better than lending), nor free (nothing
// bounds a decode step there). On one core there is nothing to divide: unified alone.
// With a bound of the stall, only those that keep it: by steps, and one loop with small pieces.
std::vector<Partition> automatic_partitions(size_t num_cores,
                                            std::optional<double> max_stall_s = std::nullopt);

// The paper's x and y (§5.1), in cores: own cores plus the duty's share of the common ones. One
// loop and `free` give half to each: "shares above 100 % compete".
double prefill_share(const Partition& partition, size_t num_cores);
double decode_share(const Partition& partition, size_t num_cores);

CorePartition core_partition(const Partition& partition);

}  // namespace weft::serve::semi_pd
