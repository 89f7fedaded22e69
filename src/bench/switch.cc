// `weft bench switch`: semi-PD with its border moved every 10 ms, as no controller would, beside
// the same load with a border that stays (b.5 of the paper's switching: nothing is restarted,
// nobody waits).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/serve_run.h"
#include "serve/semi_pd/executor.h"
#include "text/text_model.h"

namespace weft::bench {
namespace {

namespace semi_pd = serve::semi_pd;
using serve::Clock;

constexpr auto kEvery = std::chrono::milliseconds(10);
constexpr size_t kKvTokens = 16384;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Moves the border until the stop token says so; notes what each move cost whoever made it, and how
// long it took until no core was in the wrong hands.
struct Mover {
  std::vector<double> apply_us, settle_us;

  void run(semi_pd::PartitionedExecutor& executor,
           const std::vector<semi_pd::Partition>& partitions, const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any tick;
    std::unique_lock lock(mutex);
    for (size_t i = 0; !stop.stop_requested(); ++i) {
      const Clock::time_point start = Clock::now();
      executor.apply(partitions[i % partitions.size()]);
      apply_us.push_back(us_since(start));
      while (!executor.settled() && us_since(start) < 1e5) std::this_thread::yield();
      settle_us.push_back(us_since(start));
      tick.wait_until(lock, stop, start + kEvery, [] { return false; });
    }
  }
};

double at(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  const auto nth =
      values.begin() + static_cast<ptrdiff_t>(p * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

}  // namespace

Report run_switch(const BenchOptions& options) {
  if (options.models.size() != 1)
    fail(ErrorKind::kInvalidInput, "bench switch takes one --model at a time");
  const size_t num_cores = *std::max_element(options.threads.begin(), options.threads.end());
  if (num_cores == 1)
    fail(ErrorKind::kUnsupported, "one core cannot be divided: bench switch needs two");
  ThreadPool pool(num_cores);
  const text::TextModel model = text::TextModel::load(options.models.front(), {}, pool.cores());
  const auto executor = semi_pd::make_semi_pd_executor(
      model, {.num_cores = num_cores,
              .partition = semi_pd::parse_partition("1:1", num_cores),
              .kv_tokens = kKvTokens});
  std::vector<semi_pd::Partition> partitions;
  for (const semi_pd::Partition& partition : semi_pd::all_partitions(num_cores))
    if (partition.kind == semi_pd::Partition::Kind::kApart ||
        partition.kind == semi_pd::Partition::Kind::kTurns)
      partitions.push_back(partition);
  partitions.insert(partitions.begin() + 1, semi_pd::unified(num_cores));

  // Answers that run all the time, and prompts that keep coming.
  const double seconds = options.quick ? 6 : 30;
  const auto load = [&] {
    std::vector<LoadRequest> out;
    for (double time = 0; time < seconds; time += 0.5)
      out.push_back({.arrival_s = time, .prompt_tokens = 150, .answer_tokens = 80});
    return out;
  }();
  Table table{.name = fmt::format("{} requests in {:.0f} s", load.size(), seconds),
              .columns = {"border", "TPOT p50 ms", "TPOT p90 ms", "longest gap p50 ms",
                          "TTFT p50 ms", "unanswered"},
              .rows = {}};
  Report report;
  report.bench = "switch";
  report.notes.push_back(
      fmt::format("{} on {} cores; between {} partitions, the unified one among them.",
                  model.name(), num_cores, partitions.size()));
  Mover mover;
  double tpot[2] = {0, 0};
  double unanswered = 0;
  for (const bool moves : {false, true}) {
    std::jthread thread;
    if (moves)
      thread = std::jthread(
          [&](const std::stop_token& stop) { mover.run(*executor, partitions, stop); });
    const LoadOutcome outcome =
        run_in_process(*executor, load, model.model().config().vocab_size, 7, options.stop);
    thread = {};
    const auto ms = [&](double RequestOutcome::*value, double p) {
      return quantile(outcome, value, p) * 1e3;
    };
    tpot[moves] = ms(&RequestOutcome::tpot_s, 0.5);
    const auto lost =
        static_cast<double>(std::count_if(outcome.requests.begin(), outcome.requests.end(),
                                          [](const RequestOutcome& r) { return !r.answered; }));
    unanswered += lost;
    table.rows.push_back({cell(moves ? "moves every 10 ms" : "stays at 1:1"), cell(tpot[moves], 2),
                          cell(ms(&RequestOutcome::tpot_s, 0.9), 2),
                          cell(ms(&RequestOutcome::longest_gap_s, 0.5), 1),
                          cell(ms(&RequestOutcome::ttft_s, 0.5), 1), cell(lost, 0)});
  }
  Table costs{.name = fmt::format("{} moves", mover.apply_us.size()),
              .columns = {"what", "p50 us", "p90 us", "p99 us"},
              .rows = {}};
  const auto add = [&](const char* what, const std::vector<double>& us) {
    costs.rows.push_back(
        {cell(what), cell(at(us, 0.5), 1), cell(at(us, 0.9), 1), cell(at(us, 0.99), 1)});
  };
  add("for whoever moves it", mover.apply_us);
  add("until every core is in the right hands", mover.settle_us);
  report.tables = {std::move(table), std::move(costs)};
  report.summary["apply_p50_us"] = at(mover.apply_us, 0.5);
  report.summary["settled_p50_us"] = at(mover.settle_us, 0.5);
  report.summary["settled_p90_us"] = at(mover.settle_us, 0.9);
  report.summary["tpot_ratio"] = tpot[1] / tpot[0];
  report.summary["unanswered"] = unanswered;
  return report;
}

}  // namespace weft::bench
