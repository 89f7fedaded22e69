// `weft bench flashoverlap`: a product whose sums over the ranks travel while it is computed,
// beside the same product with the collective after it and beside its cut into row blocks, each of
// which is sent while the next is computed. Run it under mpirun; every rank works, rank 0 reports.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/flashoverlap_tables.h"
#include "bench/kernel_tables.h"
#include "kernels/quantize.h"
#include "parallel/flash_overlap/measure.h"

namespace weft::bench {
namespace {

namespace flash_overlap = parallel::flash_overlap;
using comm::Communicator;
using flash_overlap::Collective;
using flash_overlap::OverlapCall;
using flash_overlap::Plan;
using flash_overlap::TileGrid;
using kernels::Linear;
using Clock = std::chrono::steady_clock;

struct Shape {
  const char* what;
  size_t rows, columns, features;  // of this rank's shard
};

// Row-parallel linears of real models over 2 ranks, a prompt's chunk of 512 tokens; features below,
// at and above those where the product takes as long as 1 Gbit/s needs for its sums.
constexpr Shape kShapes[] = {
    {"Llama-3.2-1B attention output", 512, 2048, 1024},
    {"Llama-3.2-1B MLP down", 512, 2048, 4096},
    {"Llama-3-8B MLP down, half of its outputs", 512, 2048, 7168},
};

// One product of a shard and its collective, done in several ways on the same numbers.
class Contest {
 public:
  Contest(const Shape& shape, const Communicator& ranks, const CoreSet& cores)
      : shape_(shape),
        ranks_(ranks),
        cores_(cores),
        x_(random_values(shape.rows * shape.features, 17 + ranks.rank())),
        residual_(random_values(shape.rows * shape.columns, 5)),
        out_(residual_.size()),
        values_(residual_.size()) {
    const std::vector<float> weights =
        random_values(shape.columns * shape.features, 31 + ranks.rank());
    std::vector<uint8_t> quantised(bytes_of(DType::kQ8_0, weights.size()));
    kernels::quantize(DType::kQ8_0, weights.data(), quantised.data(), weights.size());
    weight_ =
        Linear::pack({DType::kQ8_0, {shape.columns, shape.features}, quantised.data()}, cores);
  }

  OverlapCall call() {
    activations_.set(x_.data(), shape_.rows, shape_.features, shape_.features);
    return {&weight_, &activations_, &ranks_};
  }
  TileGrid grid() const {
    return flash_overlap::preferred_grid(weight_, shape_.rows, cores_.size());
  }

  // The product alone, and the collective alone.
  double product_s() {
    return timed([&] { multiply_rows(0, shape_.rows); });
  }
  double collective_s() {
    return timed([&] { ranks_.all_reduce(values_); });
  }

  double one_after_the_other() {
    return timed([&] {
      multiply_rows(0, shape_.rows);
      ranks_.all_reduce(values_);
      add_rows(0, shape_.rows);
    });
  }

  // Row blocks: one is computed while the one before travels.
  double row_blocks(size_t count) {
    return timed([&] {
      std::vector<comm::Request> under_way;
      const auto border = [&](size_t b) {
        return b == count ? shape_.rows : shape_.rows * b / count / 8 * 8;
      };
      for (size_t b = 0; b < count; ++b) {
        multiply_rows(border(b), border(b + 1));
        for (comm::Request& request : under_way) request.test();
        under_way.push_back(ranks_.iall_reduce(std::span(values_).subspan(
            border(b) * shape_.columns, (border(b + 1) - border(b)) * shape_.columns)));
      }
      for (size_t b = 0; b < count; ++b) {
        under_way[b].wait();
        add_rows(border(b), border(b + 1));
      }
    });
  }

  double overlapped(const Plan& plan, flash_overlap::Trace* trace = nullptr) {
    return timed([&] {
      OverlapCall traced = call();
      traced.trace = trace;
      flash_overlap::multiply_all_reduce(traced, plan, values_.data(), cores_);
      flash_overlap::add_rows(plan, 0, values_.data(), nullptr, out_.data(), shape_.columns,
                              cores_);
    });
  }

  // After any of them: residual + sums.
  const std::vector<float>& result() const { return out_; }

 private:
  void multiply_rows(size_t begin, size_t end) {
    block_.set(x_.data() + begin * shape_.features, end - begin, shape_.features, shape_.features);
    const kernels::LinearCall call[] = {
        {&weight_, values_.data() + begin * shape_.columns, shape_.columns}};
    kernels::multiply(call, block_, cores_);
  }

  void add_rows(size_t begin, size_t end) {
    cores_.parallel_for(end - begin, 16, [&](size_t first, size_t last, size_t) {
      for (size_t i = (begin + first) * shape_.columns; i < (begin + last) * shape_.columns; ++i)
        out_[i] += values_[i];
    });
  }

  // All ranks start together; it is over when the last is.
  template <typename Body>
  double timed(Body&& body) {
    out_ = residual_;
    ranks_.barrier();
    const auto begin = Clock::now();
    body();
    ranks_.barrier();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  Shape shape_;
  const Communicator& ranks_;
  const CoreSet& cores_;
  std::vector<float> x_, residual_, out_, values_;
  Linear weight_;
  kernels::Activations activations_, block_;
};

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
  const int rounds = options.quick ? 3 : 9;

  Report report;
  report.bench = "flashoverlap";
  report.notes.push_back(fmt::format(
      "{} ranks, {} {} each, Q8_0 weights, sums in f32; every way gives the same bits. Seconds are "
      "medians of {}\nrounds in turn, until the slowest rank is done; a ratio above 1 is faster "
      "than one after the other.",
      ranks.size(), threads, threads == 1 ? "thread" : "threads", rounds));
  Table times{
      "all-reduce",
      {"product", "K", "alone", "collective", "one after the other", "best row blocks",
       "best equal groups", "tuned", "groups", "predicted", "interference", "speed-up", "of bound"},
      {}};
  std::vector<double> speedups, bound_fractions, vs_blocks, errors;
  for (const Shape& shape : kShapes) {
    options.stop.throw_if_stopped();
    Contest contest(shape, ranks, cores);
    const TileGrid grid = contest.grid();
    const flash_overlap::LatencyModel model =
        flash_overlap::measure(contest.call(), grid, Collective::kAllReduce, cores);
    const std::vector<double> before =
        flash_overlap::bytes_before(grid, flash_overlap::band_order(grid));
    const std::vector<size_t> groups = flash_overlap::best_groups(before, model);
    const Plan tuned = flash_overlap::make_plan(grid, Collective::kAllReduce, groups, ranks.size());
    flash_overlap::check_agreement(tuned, ranks);

    std::vector<std::function<double()>> ways = {
        [&] { return contest.product_s(); }, [&] { return contest.collective_s(); },
        [&] { return contest.one_after_the_other(); }, [&] { return contest.overlapped(tuned); }};
    constexpr size_t kBlocks[] = {2, 4, 8};
    for (const size_t count : kBlocks)
      ways.push_back([&contest, count] { return contest.row_blocks(count); });
    std::vector<Plan> equal;
    for (const size_t count : {4, 8, 16})
      equal.push_back(flash_overlap::make_plan(grid, Collective::kAllReduce,
                                               flash_overlap::equal_groups(grid.num_tiles(), count),
                                               ranks.size()));
    for (const Plan& plan : equal)
      ways.push_back([&contest, &plan] { return contest.overlapped(plan); });

    contest.one_after_the_other();
    const std::vector<float> expected = contest.result();
    contest.overlapped(tuned);
    check_same(contest.result(), expected, "the tuned plan");
    contest.row_blocks(4);
    check_same(contest.result(), expected, "the product in row blocks");

    if (!options.trace.empty()) {  // of the last product
      flash_overlap::Trace trace;
      contest.overlapped(tuned, &trace);
      if (ranks.rank() == 0) write_timeline(trace, shape.what, options.trace);
    }

    // Every rank measures in the same order: the order of the rounds turns alike on all of them.
    const auto values = alternate(rounds, ways, options.stop);
    const auto median = [&](size_t way) { return spread_of(values[way]).median; };
    const double plain_s = median(2), tuned_s = median(3);
    const double blocks_s = std::min({median(4), median(5), median(6)});
    const double equal_s = std::min({median(7), median(8), median(9)});
    const double waves =
        std::ceil(static_cast<double>(grid.num_tiles()) / static_cast<double>(threads));
    const double wave_s = model.collective(before.back() / waves);
    const double bound = plain_s / least_s(median(0), median(1), wave_s, waves);
    const double predicted_s = flash_overlap::predict_s(groups, before, model);
    times.rows.push_back({cell(shape.what), cell(static_cast<double>(shape.features), 0),
                          cell(spread_of(values[0]), 4), cell(spread_of(values[1]), 4),
                          cell(spread_of(values[2]), 4), cell(blocks_s, 4), cell(equal_s, 4),
                          cell(spread_of(values[3]), 4),
                          cell(static_cast<double>(tuned.num_groups()), 0), cell(predicted_s, 4),
                          cell(model.interference, 2), cell(plain_s / tuned_s, 2),
                          percent(plain_s / tuned_s / bound)});
    speedups.push_back(plain_s / tuned_s);
    bound_fractions.push_back(plain_s / tuned_s / bound);
    vs_blocks.push_back(blocks_s / tuned_s);
    errors.push_back(std::abs(predicted_s - tuned_s) / tuned_s);
  }
  report.tables.push_back(std::move(times));
  report.tables.push_back(published_table());
  report.summary["best_speedup"] = *std::max_element(speedups.begin(), speedups.end());
  report.summary["median_bound_fraction"] = spread_of(bound_fractions).median;
  report.summary["vs_chunked"] = spread_of(vs_blocks).median;
  report.summary["median_prediction_error"] = spread_of(errors).median;
  return report;
}

}  // namespace weft::bench
