// `weft bench flashoverlap`: a product whose sums over the ranks travel while it is computed,
// beside the same product with the collective after it and beside its cut into row blocks, each of
// which is sent while the next is computed. Run it under mpirun; every rank works, rank 0 reports.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/flashoverlap_contest.h"
#include "bench/flashoverlap_tables.h"

namespace weft::bench {
namespace {

namespace flash_overlap = parallel::flash_overlap;
using comm::Communicator;
using flash_overlap::Collective;
using flash_overlap::Plan;
using flash_overlap::TileGrid;

// Row-parallel linears of real models over 2 ranks, a prompt's chunk of 512 tokens; features below,
// at and above those where the product takes as long as 1 Gbit/s needs for its sums.
constexpr ProductShape kShapes[] = {
    {"Llama-3.2-1B attention output", 512, 2048, 1024},
    {"Llama-3.2-1B MLP down", 512, 2048, 4096},
    {"Llama-3-8B MLP down, half of its outputs", 512, 2048, 7168},
};

std::vector<ProductShape> shapes_of(const BenchOptions& options) {
  std::vector<ProductShape> out;
  for (const size_t features : options.overlap.features) {
    if (features % 32 != 0)
      fail(ErrorKind::kInvalidInput, "--features {}: Q8_0 weights need a multiple of 32", features);
    out.push_back({"a product", 512, 2048, features});
  }
  if (out.empty()) out.assign(std::begin(kShapes), std::end(kShapes));
  return out;
}

// The time that no overlap can undercut (§6.4 of the paper): product and collective side by side,
// the first wave of tiles computed before or the last sent after.
double least_s(double product_s, double collective_s, double wave_s, double waves) {
  return std::max(product_s + wave_s, product_s / waves + collective_s);
}

void check_same(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  if (a != b)
    fail(ErrorKind::kInvalidInput,
         "bench flashoverlap: {} gives other sums than one after the other", what);
}

struct Totals {
  std::vector<double> speedups, bound_fractions, vs_blocks, vs_equal, errors;
};

// Rounds that take about so long in all, after one that warms up. Every way gives the slowest rank's
// seconds, so all ranks find the same.
std::vector<std::vector<double>> alternate_for(double seconds,
                                               std::span<const std::function<double()>> ways,
                                               StopToken stop) {
  double round_s = 0;
  for (const auto& way : ways) round_s += way();
  const int rounds = static_cast<int>(std::clamp(seconds / round_s, 3.0, 25.0));
  return alternate(rounds, ways, stop, WarmUp::kNone);
}

// How much longer one takes than another, round by round: what disturbs a round disturbs both.
Spread ratio(const std::vector<double>& longer, const std::vector<double>& shorter) {
  std::vector<double> ratios(longer.size());
  for (size_t i = 0; i < ratios.size(); ++i) ratios[i] = longer[i] / shorter[i];
  return spread_of(std::move(ratios));
}
// The fastest of some beside the tuned one: above 1, tuned is ahead of all of them.
Spread least_ratio(std::span<const std::vector<double>> others, const std::vector<double>& tuned) {
  Spread least = ratio(others[0], tuned);
  for (const auto& other : others)
    if (const Spread r = ratio(other, tuned); r.median < least.median) least = r;
  return least;
}

// All-reduce, the collective of tensor parallelism: against one after the other and row blocks.
void measure_all_reduce(const ProductShape& shape, const BenchOptions& options, double seconds,
                        const CoreSet& cores, Table& table, Totals& totals) {
  const Communicator& ranks = *options.ranks;
  ProductContest contest(shape, ranks, cores);
  const TileGrid grid = contest.grid();
  const flash_overlap::TuningRecord tuning =
      flash_overlap::tune(contest.call(), grid, Collective::kAllReduce, cores);
  const std::vector<double> before =
      flash_overlap::bytes_before(grid, flash_overlap::band_order(grid));
  const auto plan_of = [&](std::vector<size_t> groups) {
    return flash_overlap::make_plan(grid, Collective::kAllReduce, std::move(groups), ranks.size());
  };
  const Plan tuned = plan_of(tuning.best.group_ends);
  flash_overlap::check_agreement(tuned, ranks);

  std::vector<std::function<double()>> ways = {
      [&] { return contest.product_s(); }, [&] { return contest.collective_s(); },
      [&] { return contest.all_reduce(); }, [&] { return contest.all_reduce(tuned); }};
  for (const size_t count : {2, 4, 8})
    ways.push_back([&contest, count] { return contest.all_reduce_blocks(count); });
  std::vector<Plan> equal;
  for (const size_t count : {4, 8, 16})
    equal.push_back(plan_of(flash_overlap::equal_groups(grid.num_tiles(), count)));
  for (const Plan& plan : equal)
    ways.push_back([&contest, &plan] { return contest.all_reduce(plan); });

  contest.all_reduce();
  const std::vector<float> expected = contest.result();
  contest.all_reduce(tuned);
  check_same(contest.result(), expected, "the tuned plan");
  contest.all_reduce_blocks(4);
  check_same(contest.result(), expected, "the product in row blocks");

  if (!options.trace.empty()) {  // of the last product
    flash_overlap::Trace trace;
    contest.all_reduce(tuned, &trace);
    if (ranks.rank() == 0) write_timeline(trace, shape.what, options.trace);
  }

  // Every rank measures in the same order: the order of the rounds turns alike on all of them.
  const auto values = alternate_for(seconds, ways, options.stop);
  const auto median = [&](size_t way) { return spread_of(values[way]).median; };
  const double plain_s = median(2), tuned_s = median(3);
  const Spread speedup = ratio(values[2], values[3]);
  const std::span all(values);
  const Spread vs_blocks = least_ratio(all.subspan(4, 3), values[3]);
  const Spread vs_equal = least_ratio(all.subspan(7, 3), values[3]);
  const double waves =
      std::ceil(static_cast<double>(grid.num_tiles()) / static_cast<double>(cores.size()));
  const double wave_s = tuning.model.collective(before.back() / waves);
  const double bound = plain_s / least_s(median(0), median(1), wave_s, waves);
  const auto error = [&](const Plan& plan, double seconds) {
    return std::abs(flash_overlap::predict_s(plan.group_ends(), before, tuning.model) / seconds - 1);
  };
  const double predicted_s = flash_overlap::predict_s(tuned.group_ends(), before, tuning.model);
  table.rows.push_back(
      {cell(shape.what), cell(static_cast<double>(shape.features), 0), cell(spread_of(values[0]), 4),
       cell(spread_of(values[1]), 4), cell(spread_of(values[2]), 4), cell(spread_of(values[3]), 4),
       cell(static_cast<double>(tuned.num_groups()), 0), cell(predicted_s, 4),
       cell(tuning.model.interference, 2), cell(speedup, 2), percent(speedup.median / bound),
       cell(vs_blocks, 2), cell(vs_equal, 2)});
  totals.speedups.push_back(speedup.median);
  totals.bound_fractions.push_back(speedup.median / bound);
  totals.vs_blocks.push_back(vs_blocks.median);
  totals.vs_equal.push_back(vs_equal.median);
  totals.errors.push_back(error(tuned, tuned_s));
  for (size_t i = 0; i < equal.size(); ++i) totals.errors.push_back(error(equal[i], median(7 + i)));
}

// All partitions with borders at eighths of the tiles, beside the tuned one, whose borders may be
// anywhere: one run of each, then the best of them in turn with it.
double measure_exhaustive(const ProductShape& shape, const BenchOptions& options, double seconds,
                          const CoreSet& cores, Table& table) {
  constexpr size_t kParts = 8, kBest = 8;
  ProductContest contest(shape, *options.ranks, cores);
  const TileGrid grid = contest.grid();
  const auto plan_of = [&](std::vector<size_t> groups) {
    return flash_overlap::make_plan(grid, Collective::kAllReduce, std::move(groups),
                                    options.ranks->size());
  };
  const Plan tuned = plan_of(
      flash_overlap::tune(contest.call(), grid, Collective::kAllReduce, cores).best.group_ends);
  struct Tried {
    double seconds;
    Plan plan;
  };
  std::vector<Tried> tried;
  for (size_t borders = 0; borders < size_t{1} << (kParts - 1); ++borders) {
    std::vector<size_t> ends;
    for (size_t part = 1; part < kParts; ++part)
      if (borders >> (part - 1) & 1) ends.push_back(grid.num_tiles() * part / kParts);
    ends.push_back(grid.num_tiles());
    Plan plan = plan_of(std::move(ends));
    options.stop.throw_if_stopped();
    const double taken = contest.all_reduce(plan);
    tried.push_back({taken, std::move(plan)});
  }
  std::stable_sort(tried.begin(), tried.end(),
                   [](const Tried& a, const Tried& b) { return a.seconds < b.seconds; });
  std::vector<std::function<double()>> ways = {[&] { return contest.all_reduce(tuned); }};
  for (size_t i = 0; i < kBest; ++i)
    ways.push_back([&contest, &plan = tried[i].plan] { return contest.all_reduce(plan); });
  const auto values = alternate_for(seconds, ways, options.stop);
  const Spread behind = least_ratio(std::span(values).subspan(1), values[0]);
  table.rows.push_back({cell(shape.what), cell(static_cast<double>(tried.size()), 0),
                        cell(spread_of(values[0]), 4),
                        cell(spread_of(values[0]).median * behind.median, 4), cell(behind, 3)});
  return 1 / behind.median;
}

// The other two collectives, and what reading through a map costs beside reading by rows.
void measure_others(const ProductShape& shape, const BenchOptions& options, int rounds,
                    const CoreSet& cores, Table& table, Table& reading) {
  const Communicator& ranks = *options.ranks;
  const size_t n = ranks.size();
  ProductContest contest(shape, ranks, cores);
  const TileGrid grid = contest.grid();
  const Plan scattered = flash_overlap::make_plan(
      grid, Collective::kReduceScatter,
      flash_overlap::tune(contest.call(), grid, Collective::kReduceScatter, cores).best.group_ends, n);
  std::vector<uint32_t> turns(shape.rows);
  for (size_t row = 0; row < shape.rows; ++row) turns[row] = static_cast<uint32_t>(row % n);
  const std::vector<Plan> sent(
      n, Plan(grid, flash_overlap::band_order(grid),
              flash_overlap::equal_groups(grid.num_tiles(), 8), turns, n));
  const Plan summed = flash_overlap::make_plan(
      grid, Collective::kAllReduce, flash_overlap::equal_groups(grid.num_tiles(), 8), n);

  contest.all_reduce();
  const std::vector<float> expected = contest.result();
  contest.reduce_scatter(scattered);
  const auto columns = static_cast<ptrdiff_t>(shape.columns);
  for (size_t row = 0; row < shape.rows; ++row) {
    const auto at = static_cast<ptrdiff_t>(row) * columns;
    if (scattered.destination(row) == ranks.rank() &&
        !std::equal(expected.begin() + at, expected.begin() + at + columns,
                    contest.result().begin() + at))
      fail(ErrorKind::kInvalidInput, "bench flashoverlap: reduce-scatter gives another row {}", row);
  }
  contest.all_to_all();
  const std::vector<float> arrived = contest.received();
  contest.all_to_all(sent);
  check_same(contest.received(), arrived, "all-to-all");

  const std::vector<std::function<double()>> ways = {
      [&] { return contest.reduce_scatter(); }, [&] { return contest.reduce_scatter(scattered); },
      [&] { return contest.all_to_all(); },     [&] { return contest.all_to_all(sent); },
      [&] { return contest.read_rows(); },      [&] { return contest.read_map(summed); }};
  const auto values = alternate(rounds, ways, options.stop);
  const auto median = [&](size_t way) { return spread_of(values[way]).median; };
  const auto add = [&](const char* what, size_t first, size_t groups) {
    table.rows.push_back({cell(what), cell(spread_of(values[first]), 4),
                          cell(spread_of(values[first + 1]), 4),
                          cell(static_cast<double>(groups), 0),
                          cell(median(first) / median(first + 1), 2)});
  };
  add("reduce-scatter, then the norm of own rows", 0, scattered.num_groups());
  add("all-to-all, rows in turn", 2, 8);
  reading.rows.push_back({cell(spread_of(values[4]), 5), cell(spread_of(values[5]), 5),
                          percent(median(5) / median(4) - 1)});
}

}  // namespace

Report run_flashoverlap(const BenchOptions& options) {
  if (options.ranks == nullptr || options.ranks->size() < 2)
    fail(ErrorKind::kInvalidInput,
         "bench flashoverlap measures several ranks: start it as `mpirun -n 2 weft bench "
         "flashoverlap`, or let tools/testbed.sh start it on shaped links");
  const Communicator& ranks = *options.ranks;
  const size_t threads = options.threads.front();
  ThreadPool pool(threads);
  const CoreSet cores = pool.cores();
  const double seconds = options.quick ? 4 : 9;  // of rounds, for each product

  Report report;
  report.bench = "flashoverlap";
  report.notes.push_back(fmt::format(
      "{} ranks, {} {} each, Q8_0 weights, sums in f32; every way gives the same bits. Seconds are "
      "medians of rounds in turn,\nabout {:.0f} s of them, until the slowest rank is done; ratios are "
      "medians of those of single rounds, above 1 where the tuned plan is faster.",
      ranks.size(), threads, threads == 1 ? "thread" : "threads", seconds));
  Table times{
      "all-reduce",
      {"product", "K", "alone", "collective", "one after the other", "tuned", "groups", "predicted",
       "interference", "speed-up", "of bound", "best row blocks / tuned", "best equal groups / tuned"},
      {}};
  Totals totals;
  const std::vector<ProductShape> shapes = shapes_of(options);
  const ProductShape& middle = shapes[shapes.size() / 2];
  for (const ProductShape& shape : shapes) {
    options.stop.throw_if_stopped();
    measure_all_reduce(shape, options, seconds, cores, times, totals);
  }
  Table others{fmt::format("the other collectives, K = {}", middle.features),
               {"collective", "one after the other", "overlapped", "groups", "speed-up"},
               {}};
  Table reading{"adding the sums to the residual stream, and the norm behind it",
                {"by rows", "through the map", "more"},
                {}};
  measure_others(middle, options, options.quick ? 3 : 9, cores, others, reading);
  report.tables.push_back(std::move(times));
  report.tables.push_back(std::move(others));
  report.tables.push_back(std::move(reading));
  if (!options.quick) {
    Table exhaustive{"all partitions at eighths of the tiles",
                     {"product", "partitions", "tuned", "the best of them", "best / tuned"},
                     {}};
    report.summary["tuned_over_exhaustive"] =
        measure_exhaustive(middle, options, seconds, cores, exhaustive);
    report.tables.push_back(std::move(exhaustive));
  }
  report.tables.push_back(published_table());
  report.summary["best_speedup"] =
      *std::max_element(totals.speedups.begin(), totals.speedups.end());
  report.summary["median_bound_fraction"] = spread_of(totals.bound_fractions).median;
  report.summary["vs_chunked"] = spread_of(totals.vs_blocks).median;
  report.summary["vs_equal"] = spread_of(totals.vs_equal).median;
  report.summary["median_prediction_error"] = spread_of(totals.errors).median;
  return report;
}

}  // namespace weft::bench
