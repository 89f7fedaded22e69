#include "cli/rank_options.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/thread_pool.h"
#include "comm/handshake.h"
#include "comm/mpi_transport.h"
#include "comm/topology.h"
#include "formats/checkpoint.h"
#include "text/kv_journal.h"

namespace weft::cli {
namespace {

// A process is in one job at most, from the first call of meet_ranks() to its end.
std::unique_ptr<comm::MpiJob>& job() {
  static std::unique_ptr<comm::MpiJob> the_job;
  return the_job;
}

// Where the overlap's tunings are kept from start to start; empty: nowhere.
std::filesystem::path tunings_path(const std::string& asked) {
  if (asked == "none") return {};
  if (!asked.empty()) return asked;
  if (const char* const cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != 0)
    return std::filesystem::path(cache) / "weft" / "overlap.json";
  if (const char* const home = std::getenv("HOME"); home != nullptr && *home != 0)
    return std::filesystem::path(home) / ".cache" / "weft" / "overlap.json";
  return {};
}

[[noreturn]] void follow_and_exit(parallel::Crew& crew,
                                  std::shared_ptr<const formats::Checkpoint> checkpoint,
                                  size_t threads, models::HeadLoading head) {
  {
    ThreadPool pool(threads);
    const auto share = models::load_language_model(std::move(checkpoint), pool.cores(), {}, head,
                                                   nullptr, {}, crew.team);
    text::KvCopies copies(*share, crew.row());
    parallel::follow(crew, *share, copies, pool.cores());
  }
  job().reset();
  std::fflush(nullptr);
  std::_Exit(0);  // what is left to destroy belongs to rank 0's way out
}

}  // namespace

void add_rank_options(CLI::App& command, RankOptions& options) {
  command
      .add_option("--tensor-parallel", options.tensor,
                  "Ranks (mpirun, srun) that share the weights between them")
      ->default_str("all ranks")
      ->check(CLI::Range(size_t{1}, comm::kMaxRanks));
  command
      .add_option("--sequence-parallel", options.sequence,
                  "Teams of ranks that share the tokens of a long prompt between them")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, comm::kMaxRanks));
  command
      .add_option("--exchange", options.exchange,
                  "How those pass keys and values round: tasp, direct, zigzag, paths (several ranks on "
                  "each host); auto: the one whose transfers are quickest on these links")
      ->capture_default_str()
      ->type_name("NAME");
  command
      .add_option("--sequence-cache", options.cache,
                  "Where its keys and values are: divided (each team has some, and they meet at each "
                  "layer of each token), whole (every team has all)")
      ->capture_default_str()
      ->check(CLI::IsMember({"divided", "whole"}));
  command
      .add_option("--overlap", options.overlap,
                  "Let sums over the ranks travel while they are computed: on, off")
      ->capture_default_str()
      ->check(CLI::IsMember({"on", "off"}));
  command
      .add_option("--overlap-tunings", options.tunings,
                  "Where rank 0 keeps what it found out about products and links for that; none: "
                  "nowhere")
      ->default_str("~/.cache/weft/overlap.json")
      ->type_name("FILE");
}

std::shared_ptr<parallel::Crew> meet_ranks(const RankOptions& options,
                                           const std::filesystem::path& model, size_t threads,
                                           models::HeadLoading head) {
  if (!comm::is_launched_as_rank()) {
    if (options.tensor > 1 || options.sequence > 1)
      fail(ErrorKind::kInvalidInput,
           "--tensor-parallel and --sequence-parallel need several ranks. Example: mpirun -n {} "
           "weft generate ...",
           std::max<size_t>(1, options.tensor) * options.sequence);
    return nullptr;
  }
  if (!job()) job() = comm::MpiJob::join();
  const comm::Communicator& ranks = job()->ranks();
  parallel::RankPlan plan{.tensor = options.tensor,
                          .sequence = options.sequence,
                          .exchange = options.exchange,
                          .divide_cache = options.cache == "divided",
                          .overlap = options.overlap == "on",
                          .tunings = tunings_path(options.tunings),
                          .notice = [](const std::string& text) {
                            fmt::print(stderr, "weft: {}\n", text);
                          }};
  if (plan.tensor == 0) plan.tensor = std::max<size_t>(1, ranks.size() / plan.sequence);
  std::shared_ptr<const formats::Checkpoint> checkpoint = formats::open_checkpoint(model);
  comm::shake_hands(ranks, {.version = WEFT_VERSION,
                            .model = parallel::fingerprint(*checkpoint),
                            .plan = plan.describe()});
  auto crew = parallel::make_crew(ranks, plan);
  if (ranks.rank() != 0) follow_and_exit(*crew, std::move(checkpoint), threads, head);
  return crew;
}

size_t prompt_chunk(const parallel::Crew& crew) {
  // Two stretches for each team, each as long as a pass of one process: pieces that are worth
  // sending.
  return crew.plan.sequence == 1 ? 512 : 1024 * crew.plan.sequence;
}

void end_job_after_error(int exit_code) {
  if (!job()) return;
  std::fflush(nullptr);
  job()->end_job(exit_code);
}

std::string rank_prefix() {
  return job() ? fmt::format("rank {}: ", job()->ranks().rank()) : std::string();
}

}  // namespace weft::cli
