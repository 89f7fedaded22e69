#include "bench/serve_stall.h"

#include <fmt/format.h>

namespace weft::bench {

double bench_stall(ServeSetting& setting, const std::vector<System>& systems, const Slo& slo,
                   Report& report) {
  const size_t prompt = setting.options().quick ? 512 : 2048;
  Table table{.name = fmt::format("a prompt of {} tokens arrives while 8 answers run", prompt),
              .columns = {"system", "gap before ms", "longest gap ms", "ratio", "TTFT of it ms"},
              .rows = {}};
  constexpr int rounds = 3;
  double ratio_of_dynamic = 0;
  std::vector<std::vector<double>> gaps(systems.size()), calm(systems.size()), ttft(systems.size());
  std::vector<std::unique_ptr<serve::PhaseExecutor>> executors;
  for (const System& system : systems) executors.push_back(system.make(slo));
  std::vector<std::function<double()>> contestants;
  for (size_t s = 0; s < systems.size(); ++s) {
    contestants.push_back([&, s] {
      std::vector<LoadRequest> load(8, {.prompt_tokens = 32, .answer_tokens = 40});
      const size_t vocab = setting.vocab_size();
      const StopToken stop = setting.options().stop;
      static uint64_t seed = 5000;
      const LoadOutcome before = run_in_process(*executors[s], load, vocab, ++seed, stop);
      for (LoadRequest& request : load) request.answer_tokens = 250;
      load.push_back({.arrival_s = 0.3, .prompt_tokens = prompt, .answer_tokens = 2});
      const LoadOutcome outcome = run_in_process(*executors[s], load, vocab, ++seed, stop);
      double gap = 0;
      std::vector<double> tpot;
      for (size_t i = 0; i < 8; ++i) {
        gap = std::max(gap, outcome.requests[i].longest_gap_s);
        tpot.push_back(before.requests[i].tpot_s);
      }
      gaps[s].push_back(gap);
      calm[s].push_back(spread_of(tpot).median);
      ttft[s].push_back(outcome.requests[8].ttft_s);
      return gap;
    });
  }
  alternate(rounds, contestants, setting.options().stop, WarmUp::kNone);
  for (size_t s = 0; s < systems.size(); ++s) {
    const double before = spread_of(calm[s]).median, longest = spread_of(gaps[s]).median;
    if (systems[s].name == kDynamic) ratio_of_dynamic = longest / before;
    table.rows.push_back({cell(systems[s].name), cell(before * 1e3, 2), cell(longest * 1e3, 1),
                          cell(longest / before, 1), cell(spread_of(ttft[s]).median * 1e3, 0)});
  }
  report.tables.push_back(std::move(table));
  return ratio_of_dynamic;
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
