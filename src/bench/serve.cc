// `weft bench serve`: systems that share this machine between prefill and decode, under the same
// arrivals.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/progress.h"
#include "base/random.h"
#include "bench/bench.h"
#include "bench/serve_record.h"
#include "bench/serve_run.h"
#include "bench/serve_stall.h"
#include "bench/serve_systems.h"
#include "formats/plot.h"

namespace weft::bench {
namespace {

constexpr double kLoose = 10, kTight = 7.5;  // SLOs in units of a request alone (semi-PD, §6.1)

LoadOptions load_options(const ServeBenchOptions& o, bool quick) {
  return {.shape = o.shape,
          .trace = o.trace,
          .divide_lengths = o.divide_lengths > 0 ? o.divide_lengths : quick ? 8.0 : 4.0,
          .max_tokens = 8000,
          .arrival_cv = o.arrival_cv,
          .step = o.step,
          .count = o.requests != 0 ? o.requests : quick ? size_t{60} : size_t{300}};
}

// Requests per second when all are there at once: what the machine can do at most.
double measure_capacity(ServeSetting& setting, LoadOptions load, StopToken stop) {
  load.rate = 1e6;
  load.step = 1;
  load.count = std::min<size_t>(load.count, 120);
  load.seed = 99;
  const auto executor = setting.unified(serve::UnifiedPolicy::kChunked, 256);
  const LoadOutcome outcome = run_in_process(*executor, make_load(load),
                                             setting.vocab_size(), 99, stop);
  return static_cast<double>(load.count) / outcome.seconds;
}

// A request of the load's mean lengths, alone on the machine.
Slo measure_unloaded(ServeSetting& setting, const LoadOptions& options, StopToken stop) {
  double prompt = 0, answer = 0;
  for (const LoadRequest& request : make_load(options)) {
    prompt += static_cast<double>(request.prompt_tokens) / static_cast<double>(options.count);
    answer += static_cast<double>(request.answer_tokens) / static_cast<double>(options.count);
  }
  const auto executor = setting.unified(serve::UnifiedPolicy::kChunked, 256);
  std::vector<double> ttft, tpot;
  for (uint64_t i = 0; i < 5; ++i) {
    const std::vector<LoadRequest> one{{.arrival_s = 1e-3,
                                        .prompt_tokens = static_cast<size_t>(prompt) + 1,
                                        .answer_tokens = static_cast<size_t>(answer) + 2}};
    const LoadOutcome outcome = run_in_process(
        *executor, one, setting.vocab_size(), 1000 + i, stop);
    ttft.push_back(outcome.requests[0].ttft_s);
    tpot.push_back(outcome.requests[0].tpot_s);
  }
  return {spread_of(ttft).median, spread_of(tpot).median};
}

Slo times(const Slo& slo, double factor) { return {slo.ttft_s * factor, slo.tpot_s * factor}; }

// All seeds of one system at one rate.
struct Point {
  std::vector<LoadOutcome> runs;

  double median(const std::function<double(const LoadOutcome&)>& value) const {
    std::vector<double> values;
    for (const LoadOutcome& run : runs) values.push_back(value(run));
    return spread_of(values).median;
  }
  Spread good(const Slo& slo) const {
    std::vector<double> values;
    for (const LoadOutcome& run : runs) values.push_back(goodput(run, slo));
    return spread_of(values);
  }
  double at(double RequestOutcome::*value, double p) const {
    return median([&](const LoadOutcome& run) { return quantile(run, value, p); });
  }
};

constexpr const char* kLoadColumns[] = {"rate",     "system",   "TTFT p50", "p90",      "p99",
                                        "TPOT p50", "p90",      "p99",      "gap p99",  "tokens/s",
                                        "in SLO",   "in 7.5x",  "goodput"};

std::vector<Cell> row_of(double rate, const std::string& name, const Point& point,
                         const Slo& unloaded) {
  const auto ms = [&](double RequestOutcome::*value, double p) {
    const double t = point.at(value, p) * 1e3;
    return cell(t, t < 100 ? 1 : 0);
  };
  const Slo slo = times(unloaded, kLoose);
  return {cell(rate, 2),
          cell(name),
          ms(&RequestOutcome::ttft_s, 0.5),
          ms(&RequestOutcome::ttft_s, 0.9),
          ms(&RequestOutcome::ttft_s, 0.99),
          ms(&RequestOutcome::tpot_s, 0.5),
          ms(&RequestOutcome::tpot_s, 0.9),
          ms(&RequestOutcome::tpot_s, 0.99),
          ms(&RequestOutcome::longest_gap_s, 0.99),
          cell(point.median([](const LoadOutcome& run) {
                 double tokens = 0;
                 for (const RequestOutcome& r : run.requests)
                   tokens += static_cast<double>(r.tokens);
                 return tokens / run.seconds;
               }),
               0),
          percent(point.median([&](const LoadOutcome& run) { return attainment(run, slo); })),
          percent(point.median(
              [&](const LoadOutcome& run) { return attainment(run, times(unloaded, kTight)); })),
          cell(point.good(slo), 2)};
}

Table load_table(const char* name) {
  return {.name = name, .columns = {std::begin(kLoadColumns), std::end(kLoadColumns)}, .rows = {}};
}

// By rate, then system.
using Points = std::vector<std::map<std::string, Point>>;

// Goodput of `a` over that of `b`, with the middle 95 % of what it is for requests drawn again and
// again from those that were served, the same ones for both.
std::string ratio_with_interval(const Point& a, const Point& b, const Slo& slo) {
  std::vector<std::pair<bool, bool>> kept;
  const auto keeps = [&](const RequestOutcome& r) {
    return r.answered && r.ttft_s <= slo.ttft_s && r.tpot_s <= slo.tpot_s;
  };
  for (size_t run = 0; run < a.runs.size(); ++run)
    for (size_t i = 0; i < a.runs[run].requests.size(); ++i)
      kept.emplace_back(keeps(a.runs[run].requests[i]), keeps(b.runs[run].requests[i]));
  constexpr uint32_t kDraws = 2000;
  const auto ratio = [&](auto pick) {
    double of_a = 0, of_b = 0;
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto& [ours, theirs] = kept[pick(i)];
      of_a += ours;
      of_b += theirs;
    }
    return of_a / std::max(of_b, 1.0);
  };
  std::vector<double> drawn;
  for (uint32_t draw = 0; draw < kDraws; ++draw)
    drawn.push_back(ratio([&](size_t i) {
      return static_cast<size_t>(uniform(7, i, draw) * static_cast<double>(kept.size()));
    }));
  std::sort(drawn.begin(), drawn.end());
  return fmt::format("{:.2f} ({:.2f} to {:.2f})", ratio([](size_t i) { return i; }),
                     drawn[kDraws / 40], drawn[kDraws - 1 - kDraws / 40]);
}

// The controller beside each of the others.
Table ratio_table(const std::vector<double>& fractions, const std::vector<System>& systems,
                  const Points& points, const Slo& slo) {
  Table table{.name = "goodput of " + std::string(kDynamic) +
                      " over that of others, with 95 % intervals (bootstrap over requests)",
              .columns = {"of capacity"},
              .rows = {}};
  for (const System& system : systems)
    if (system.name != kDynamic) table.columns.push_back(system.name);
  for (size_t r = 0; r < fractions.size(); ++r) {
    std::vector<Cell>& row = table.rows.emplace_back(std::vector<Cell>{cell(fractions[r], 2)});
    for (const System& system : systems)
      if (system.name != kDynamic)
        row.push_back(cell(
            ratio_with_interval(points[r].at(kDynamic), points[r].at(system.name), slo)));
  }
  return table;
}

void summarize(const std::vector<double>& fractions, const std::vector<System>& systems,
               const Points& points, const Slo& slo, Report& report) {
  double vs_first = 0, vs_tuned = 0, worst = std::numeric_limits<double>::infinity();
  for (size_t r = 0; r < fractions.size(); ++r) {
    const auto& at = points[r];
    const auto dynamic = at.find(kDynamic);
    if (dynamic == at.end()) continue;
    double tuned = 0;
    for (const System& system : systems)
      if (system.is_chunked) tuned = std::max(tuned, at.at(system.name).good(slo).median);
    const double ours = dynamic->second.good(slo).median;
    const auto first = at.find(kPrefillFirst);
    const auto ratio = [](double a, double b) { return b > 0 ? a / b : a > 0 ? 99.0 : 1.0; };
    worst = std::min(worst, ratio(ours, tuned));
    if (fractions[r] < 0.6) continue;
    if (first != at.end())
      vs_first = std::max(vs_first, ratio(ours, first->second.good(slo).median));
    vs_tuned = std::max(vs_tuned, ratio(ours, tuned));
  }
  report.summary["goodput_vs_prefill_first"] = vs_first;
  report.summary["goodput_vs_best_tuned"] = vs_tuned;
  report.summary["goodput_vs_best_tuned_worst"] = worst;
}

// Ours and llama.cpp's server as programs, over HTTP.
void bench_peer(ServeSetting& setting, const LoadOptions& base, const std::vector<double>& fractions,
                double capacity, const Slo& unloaded, Report& report) {
  const BenchOptions& o = setting.options();
  const std::filesystem::path peer = o.peer->parent_path() / "llama-server";
  if (access(peer.c_str(), X_OK) != 0)
    fail(ErrorKind::kNotFound, "{}: no such program. tools/build_peer.sh builds it beside llama-bench.",
         peer.string());
  const std::string model = o.models.front().string(), threads = std::to_string(setting.num_cores());
  const Slo slo = times(unloaded, kLoose);
  struct Contestant {
    std::string name;
    std::function<std::vector<std::string>(int port)> command;
    Point point = {};
  };
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string slo_text = fmt::format("ttft={:.3f}s,tpot={:.3f}s", slo.ttft_s, slo.tpot_s);
  Table table = load_table("over HTTP, each server a process of its own");
  double worst_ttft = 0, worst_tpot = 0, worst_goodput = std::numeric_limits<double>::infinity();
  double http_share = 0;
  for (const double fraction : fractions) {
    std::vector<Contestant> contestants;
    contestants.push_back({"weft", [&](int port) {
                             return std::vector<std::string>{
                                 self, "serve", "--model", model, "--threads", threads, "--port",
                                 std::to_string(port), "--slo", slo_text, "--kv-tokens",
                                 std::to_string(ServeSetting::kKvTokens), "--max-running",
                                 std::to_string(ServeSetting::kMaxRunning), "--max-queued", "100000"};
                           }});
    // Its defaults but for what such a load needs: slots, and a context for each of them.
    contestants.push_back({"llama.cpp", [&](int port) {
                             return std::vector<std::string>{
                                 peer.string(), "-m", model, "-t", threads, "--port",
                                 std::to_string(port), "-np", "16", "-c", std::to_string(ServeSetting::kKvTokens),
                                 "--kv-unified", "--no-webui"};
                           }});
    const double rate = fraction * capacity;
    for (uint64_t seed = o.serve.first_seed; seed < o.serve.first_seed + o.serve.seeds; ++seed) {
      LoadOptions load = base;
      load.rate = rate;
      load.seed = seed;
      for (size_t i = 0; i < contestants.size(); ++i) {
        Contestant& c = contestants[(i + seed) % contestants.size()];
        const int port = free_port();
        const ServerProcess server(c.command(port), port, o.stop);
        c.point.runs.push_back(run_over_http(port, make_load(load),
                                             setting.vocab_size(), seed,
                                             o.stop));
        http_share = std::max(http_share, c.point.runs.back().cpu_seconds /
                                              (c.point.runs.back().seconds *
                                               static_cast<double>(setting.num_cores())));
      }
    }
    for (const Contestant& c : contestants)
      table.rows.push_back(row_of(rate, c.name, c.point, unloaded));
    const Point &ours = contestants[0].point, &theirs = contestants[1].point;
    const auto ratio = [](double a, double b) { return b > 0 ? a / b : 1.0; };
    worst_ttft = std::max(worst_ttft, ratio(ours.at(&RequestOutcome::ttft_s, 0.9),
                                            theirs.at(&RequestOutcome::ttft_s, 0.9)));
    worst_tpot = std::max(worst_tpot, ratio(ours.at(&RequestOutcome::tpot_s, 0.9),
                                            theirs.at(&RequestOutcome::tpot_s, 0.9)));
    if (theirs.good(slo).median > 0)
      worst_goodput =
          std::min(worst_goodput, ours.good(slo).median / theirs.good(slo).median);
  }
  report.tables.push_back(std::move(table));
  report.summary["p90_ttft_vs_peer"] = worst_ttft;  // at the worst rate; below 1 is ahead
  report.summary["p90_tpot_vs_peer"] = worst_tpot;
  report.summary["goodput_vs_peer"] = worst_goodput;  // above 1 is ahead
  report.summary["client_cpu_share"] = http_share;
}

}  // namespace

Report run_serve(const BenchOptions& options) {
  if (options.models.size() != 1)
    fail(ErrorKind::kInvalidInput, "bench serve takes one --model at a time");
  ServeSetting setting(options);
  const size_t vocab_size = setting.vocab_size();
  const LoadOptions base = load_options(options.serve, options.quick);
  const std::string load_name = base.trace.empty() ? "shape '" + base.shape + "'"
                                                   : "trace " + base.trace.filename().string();
  ServeRecord record(
      options.serve.resume,
      fmt::format("{} on {} cores; {}, lengths divided by {}, {} requests a point, gaps of cv {}, "
                  "step {}",
                  setting.model().name(), setting.num_cores(), load_name, base.divide_lengths,
                  base.count, base.arrival_cv, base.step));
  if (!record.scale())
    record.set_scale({.capacity = measure_capacity(setting, base, options.stop),
                      .unloaded = measure_unloaded(setting, base, options.stop)});
  const auto [capacity, unloaded] = *record.scale();
  const Slo slo = times(unloaded, kLoose);
  std::vector<double> fractions = options.serve.rates;
  if (fractions.empty())
    fractions = options.quick ? std::vector<double>{0.7} : std::vector<double>{0.2, 0.4, 0.6, 0.8, 1.0};
  const size_t seeds = options.serve.seeds;

  Report report;
  report.bench = "serve";
  report.notes.push_back(fmt::format(
      "{} on {} cores; {}, lengths divided by {}, {} requests a point, {} seed(s), gaps of cv "
      "{}.\nCapacity {:.2f} requests/s (all there at once, chunked). Alone on the machine a request "
      "of mean lengths\nhas TTFT {:.1f} ms, TPOT {:.2f} ms; the SLO is ten times that, for each "
      "request. Times in ms;\ngoodput: requests/s within the SLO.",
      setting.model().name(), setting.num_cores(), load_name, base.divide_lengths, base.count, seeds,
      base.arrival_cv, capacity, unloaded.ttft_s * 1e3, unloaded.tpot_s * 1e3));

  const std::vector<System> systems = setting.systems();
  Points points(fractions.size());
  Table table = load_table("in this process");
  {
    Progress progress("Serving", fractions.size() * seeds * systems.size(), "runs");
    const ProgressFn show = progress.callback();
    size_t done = 0;
    for (size_t r = 0; r < fractions.size(); ++r) {
      const uint64_t first_seed = options.serve.first_seed;
      for (uint64_t seed = first_seed; seed < first_seed + seeds; ++seed) {
        LoadOptions load = base;
        load.rate = fractions[r] * capacity;
        load.seed = seed;
        const std::vector<LoadRequest> requests = make_load(load);
        for (size_t i = 0; i < systems.size(); ++i) {
          const System& system = systems[(i + r + seed) % systems.size()];
          auto run = record.find(fractions[r], seed, system.name);
          if (!run) {
            const auto executor = system.make(slo);
            run = run_in_process(*executor, requests, vocab_size, seed, options.stop);
            record.add(fractions[r], seed, system.name, *run);
          }
          points[r][system.name].runs.push_back(*std::move(run));
          show(++done, fractions.size() * seeds * systems.size());
        }
      }
    }
  }
  std::vector<formats::PlotLine> lines;
  for (const System& system : systems) {
    formats::PlotLine& line = lines.emplace_back(formats::PlotLine{.name = system.name, .points = {}});
    for (size_t r = 0; r < fractions.size(); ++r)
      line.points.push_back(
          {fractions[r] * capacity, points[r].at(system.name).good(slo).median});
  }
  for (size_t r = 0; r < fractions.size(); ++r)
    for (const System& system : systems)
      table.rows.push_back(
          row_of(fractions[r] * capacity, system.name, points[r].at(system.name), unloaded));
  report.tables.push_back(std::move(table));
  summarize(fractions, systems, points, slo, report);
  if (points.front().contains(kDynamic))
    report.tables.push_back(ratio_table(fractions, systems, points, slo));
  if (options.serve.only.empty())
    report.summary["stall_ratio"] = bench_stall(setting, systems, slo, report);
  if (options.peer) bench_peer(setting, base, fractions, capacity, unloaded, report);
  if (!options.serve.svg.empty())
    formats::write_plot(options.serve.svg, {.title = "Requests per second within the SLO",
                                   .x_title = "requests per second that arrive",
                                   .y_title = "goodput",
                                   .lines = std::move(lines)});
  return report;
}

}  // namespace weft::bench
