#include "bench/serve_stall.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace weft::bench {

namespace {

constexpr size_t kAnswers = 8;

// Of so many answers that nobody disturbs.
double usual_gap_s(ServeSetting& setting) {
  const auto executor = setting.unified(serve::UnifiedPolicy::kChunked, 256);
  const std::vector<LoadRequest> load(kAnswers, {.prompt_tokens = 32, .answer_tokens = 40});
  std::vector<double> tpot;
  for (uint64_t seed = 4000; seed < 4003; ++seed)
    for (const RequestOutcome& r : run_in_process(*executor, load, setting.vocab_size(), seed,
                                                  setting.options().stop)
                                       .requests)
      tpot.push_back(r.tpot_s);
  return spread_of(tpot).median;
}

}  // namespace

double bench_stall(ServeSetting& setting, const std::vector<System>& all, const Slo& slo,
                   Report& report) {
  const size_t prompt = setting.options().quick ? 512 : 2048;
  Table table{.name = fmt::format("a prompt of {} tokens arrives while 8 answers run", prompt),
              .columns = {"system", "gap before ms", "longest without it", "longest gap ms",
                          "ratio", "TTFT of it ms"},
              .rows = {}};
  constexpr int rounds = 3;
  double best_ratio = std::numeric_limits<double>::infinity();
  std::vector<System> systems = all;
  setting.set_kv_tokens(8192);  // all are there at once
  const double usual_s = usual_gap_s(setting);
  if (setting.num_cores() > 1) {
    const std::string partition =
        fmt::format("{0}/{0}:{1:.0f}ms", setting.num_cores(), std::max(1.0, 2e3 * usual_s));
    systems.push_back({"semi-PD " + partition, [&setting, partition](const Slo& promised) {
                         return setting.apart(partition, promised);
                       }});
  }
  std::vector<std::vector<double>> gaps(systems.size()), calm(systems.size()),
      alone(systems.size()), ttft(systems.size());
  std::vector<std::unique_ptr<serve::PhaseExecutor>> executors;
  for (const System& system : systems) executors.push_back(system.make(slo));
  std::vector<std::function<double()>> contestants;
  for (size_t s = 0; s < systems.size(); ++s) {
    contestants.push_back([&, s] {
      std::vector<LoadRequest> load(kAnswers, {.prompt_tokens = 32, .answer_tokens = 250});
      const size_t vocab = setting.vocab_size();
      const StopToken stop = setting.options().stop;
      static uint64_t seed = 5000;
      const LoadOutcome before = run_in_process(*executors[s], load, vocab, ++seed, stop);
      load.push_back({.arrival_s = 0.3, .prompt_tokens = prompt, .answer_tokens = 2});
      const LoadOutcome outcome = run_in_process(*executors[s], load, vocab, ++seed, stop);
      double gap = 0, gap_alone = 0;
      std::vector<double> tpot;
      for (size_t i = 0; i < kAnswers; ++i) {
        gap = std::max(gap, outcome.requests[i].longest_gap_s);
        gap_alone = std::max(gap_alone, before.requests[i].longest_gap_s);
        tpot.push_back(before.requests[i].tpot_s);
      }
      gaps[s].push_back(gap);
      calm[s].push_back(spread_of(tpot).median);
      alone[s].push_back(gap_alone);
      ttft[s].push_back(outcome.requests[kAnswers].ttft_s);
      return gap;
    });
  }
  alternate(rounds, contestants, setting.options().stop, WarmUp::kNone);
  for (size_t s = 0; s < systems.size(); ++s) {
    const double before = spread_of(calm[s]).median, longest = spread_of(gaps[s]).median;
    best_ratio = std::min(best_ratio, longest / before);
    table.rows.push_back({cell(systems[s].name), cell(before * 1e3, 2),
                          cell(spread_of(alone[s]).median * 1e3, 1), cell(longest * 1e3, 1),
                          cell(longest / before, 1), cell(spread_of(ttft[s]).median * 1e3, 0)});
  }
  report.tables.push_back(std::move(table));
  return best_ratio;
}

Report run_stall(const BenchOptions& options) {
  ServeSetting setting(options);
  Report report;
  report.bench = "stall";
  report.notes.push_back(fmt::format("{} on {} cores. Medians of the longest gap between two tokens.",
                                     setting.model().name(), setting.num_cores()));
  // Of the usual size; the controller needs some.
  const Slo slo{.ttft_s = 1, .tpot_s = 0.05};
  report.summary["stall_ratio"] = bench_stall(setting, setting.systems(), slo, report);
  return report;
}

}  // namespace weft::bench
