// `weft bench isolate`: the same executors with their computation in this process and in worker
// processes, alternating; and how long running answers pause when a worker is killed.
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <thread>

#include "bench/bench.h"
#include "bench/serve_run.h"
#include "serve/isolate/isolation.h"
#include "serve/semi_pd/executor.h"
#include "serve/unified_executor.h"
#include "text/text_model.h"

namespace weft::bench {
namespace {

using serve::isolate::Isolation;
using serve::isolate::IsolationOptions;
using serve::isolate::SharedWeights;

constexpr size_t kKvTokens = 16384;

// One executor, computing here or in worker processes, with a model of its own.
struct Contestant {
  Contestant(const BenchOptions& options, ThreadPool& pool, const std::string& partition,
             bool isolated) {
    auto weights = isolated ? std::make_unique<SharedWeights>() : nullptr;
    model.emplace(text::TextModel::load(
        options.models.front(), {.weights = isolated ? &weights->arena : nullptr}, pool.cores()));
    if (isolated)
      isolation = std::make_unique<Isolation>(*model, std::move(weights),
                                              IsolationOptions{.model = options.models.front(),
                                                               .kv_tokens = kKvTokens,
                                                               .num_cores = pool.size(),
                                                               .two_phases = !partition.empty(),
                                                               .max_deaths = SIZE_MAX});
    if (!partition.empty()) {
      executor = serve::semi_pd::make_semi_pd_executor(
          *model, {.num_cores = pool.size(),
                   .partition = serve::semi_pd::parse_partition(partition, pool.size()),
                   .kv_tokens = kKvTokens,
                   .isolation = isolation.get()});
      return;
    }
    text::TextModel::DecoderOptions decoder{.capacity_tokens = kKvTokens};
    if (isolated) {
      decoder.pool = isolation->pool();
      decoder.model = isolation->model(Phase::kPrefill);
    }
    executor =
        serve::make_unified_executor(model->make_decoder(pool.cores(), decoder), model->tokenizer(),
                                     {}, pool.cores(), std::make_shared<serve::Turns>());
  }

  size_t vocab_size() const { return model->model().config().vocab_size; }

  std::optional<text::TextModel> model;
  std::unique_ptr<Isolation> isolation;
  std::unique_ptr<serve::PhaseExecutor> executor;  // before the others go
};

uint64_t next_seed() {
  static uint64_t seed = 9000;
  return ++seed;
}

// The median time per token of so many answers at once.
double tpot(Contestant& contestant, size_t answers, const BenchOptions& options) {
  const std::vector<LoadRequest> load(answers, {.prompt_tokens = 32, .answer_tokens = 64});
  const LoadOutcome outcome = run_in_process(*contestant.executor, load, contestant.vocab_size(),
                                             next_seed(), options.stop);
  return quantile(outcome, &RequestOutcome::tpot_s, 0.5);
}

double ttft(Contestant& contestant, size_t prompt, const BenchOptions& options) {
  const std::vector<LoadRequest> load(1, {.prompt_tokens = prompt, .answer_tokens = 1});
  return run_in_process(*contestant.executor, load, contestant.vocab_size(), next_seed(),
                        options.stop)
      .requests.front()
      .ttft_s;
}

// The longest gap of four answers, half-way through which the worker that makes them is killed.
double gap_at_a_crash(Contestant& contestant, const BenchOptions& options) {
  const std::vector<LoadRequest> load(4, {.prompt_tokens = 32, .answer_tokens = 100});
  const auto& generated = contestant.executor->metrics().generated_tokens;
  const uint64_t half = generated.load() + 200;
  std::jthread killer([&](const std::stop_token& ended) {
    while (generated.load() < half && !ended.stop_requested())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(contestant.isolation->workers().back().pid, SIGKILL);
  });
  const LoadOutcome outcome = run_in_process(*contestant.executor, load, contestant.vocab_size(),
                                             next_seed(), options.stop);
  double longest = 0;
  for (const RequestOutcome& request : outcome.requests)
    longest = std::max(longest, request.longest_gap_s);
  return longest;
}

// The median, and between which two of the values the true one lies in 95 % of such experiments.
std::string with_interval(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  const auto rank = static_cast<size_t>(std::max(0.0, std::floor(n / 2 - 0.98 * std::sqrt(n))));
  return fmt::format("{:.3f} ({:.3f} to {:.3f})", spread_of(values).median, values[rank],
                     values[values.size() - 1 - rank]);
}

}  // namespace

Report run_isolate(const BenchOptions& options) {
  ThreadPool pool(*std::max_element(options.threads.begin(), options.threads.end()));
  Report report;
  report.bench = "isolate";
  report.notes.push_back(
      fmt::format("{} on {} cores. TPOT: median over answers; TTFT: of one prompt. Medians of {} "
                  "rounds, ratios with "
                  "95 % intervals.",
                  options.models.front().filename().string(), pool.size(), options.quick ? 7 : 25));
  Table costs{.name = "worker processes beside threads",
              .columns = {"executor", "what", "threads ms", "processes ms", "ratio"},
              .rows = {}};
  Table crashes{.name = "a worker is killed while 4 answers run",
                .columns = {"executor", "usual gap ms", "longest gap ms"},
                .rows = {}};
  const int rounds = options.quick ? 7 : 25;
  double worst = 0;
  for (const std::string& partition : {std::string(), std::string("1:1")}) {
    if (!partition.empty() && pool.size() == 1) continue;
    const std::string name = partition.empty() ? "unified" : "semi-PD " + partition;
    Contestant threads(options, pool, partition, false), processes(options, pool, partition, true);
    const auto compare = [&](const std::string& what, const auto& measure) {
      const std::function<double()> contestants[] = {[&] { return measure(threads); },
                                                     [&] { return measure(processes); }};
      const auto values = alternate(rounds, contestants, options.stop);
      // Of the two in one round: what changes from round to round is the machine's.
      std::vector<double> ratios;
      for (size_t i = 0; i < values[0].size(); ++i) ratios.push_back(values[1][i] / values[0][i]);
      const double ratio = spread_of(ratios).median;
      auto in_ms = [](std::vector<double> s) {
        for (double& value : s) value *= 1e3;
        return spread_of(s);
      };
      costs.rows.push_back({cell(name), cell(what), cell(in_ms(values[0]), 3),
                            cell(in_ms(values[1]), 3), cell(with_interval(std::move(ratios)))});
      return ratio;
    };
    for (const size_t answers : {1, 8})
      worst = std::max(worst, compare(fmt::format("TPOT, {} at once", answers),
                                      [&](Contestant& c) { return tpot(c, answers, options); }));
    compare("TTFT, 512 tokens", [&](Contestant& c) { return ttft(c, 512, options); });
    std::vector<double> gaps;
    for (int i = 0; i < 7; ++i) gaps.push_back(gap_at_a_crash(processes, options));
    crashes.rows.push_back({cell(name), cell(tpot(processes, 4, options) * 1e3, 2),
                            cell(spread_of(gaps).median * 1e3, 1)});
  }
  report.tables = {std::move(costs), std::move(crashes)};
  report.summary["worst_tpot_ratio"] = worst;
  return report;
}

}  // namespace weft::bench
