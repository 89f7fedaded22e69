#include "parallel/flash_overlap/measure.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "base/seconds.h"
#include "kernels/tiled_product.h"

namespace weft::parallel::flash_overlap {
namespace {

using Clock = std::chrono::steady_clock;

comm::Request start(const OverlapCall& call, Collective collective, std::span<float> values,
                    std::span<const size_t> begins) {
  return collective == Collective::kAllReduce
             ? call.comm->iall_reduce(values, call.channel)
             : call.comm->ireduce_scatter(values, begins, call.channel);
}

struct Sample {
  double collective_s = 0;
  double elapsed_s = 0, tiles = 0;  // of all messages together
};

// `messages` collectives of `size` values, one after the other, while all cores compute tiles.
Sample sample(const OverlapCall& call, const TileGrid& grid, Collective collective, size_t size,
              size_t messages, const CoreSet& cores) {
  std::vector<float> values(size);
  const std::vector<size_t> begins = comm::even_parts(size, call.comm->size());
  const size_t tile_size = grid.tile_rows * grid.tile_columns;
  std::vector<float> tiles(cores.size() * tile_size);

  call.comm->barrier(call.channel);
  const Clock::time_point begin = Clock::now();
  std::mutex mutex;  // guards `under_way` and `left`
  size_t left = messages;
  std::atomic<bool> finished{false};
  std::atomic<size_t> next{0};
  comm::Request under_way = start(call, collective, values, begins);
  cores.parallel_for(cores.size(), 1, [&](size_t, size_t, size_t core) {
    while (!finished.load(std::memory_order_relaxed)) {
      const size_t i = next.fetch_add(1, std::memory_order_relaxed) % grid.num_tiles();
      const Tile tile = grid.tile(i / grid.num_panels(), i % grid.num_panels());
      kernels::multiply_tile(*call.weight, *call.x,
                             {tile.first_row, tile.num_rows, tile.first_column, tile.num_columns},
                             tiles.data() + core * tile_size, tile.num_columns);
      const std::unique_lock lock(mutex, std::try_to_lock);
      if (!lock || left == 0 || !under_way.test()) continue;
      if (--left == 0)
        finished.store(true, std::memory_order_relaxed);
      else
        under_way = start(call, collective, values, begins);
    }
  });
  const double elapsed = seconds_since(begin);
  return {elapsed / static_cast<double>(messages), elapsed,
          static_cast<double>(next.load(std::memory_order_relaxed))};
}

}  // namespace

TileGrid preferred_grid(const kernels::Linear& weight, size_t num_rows, size_t cores) {
  const kernels::ProductTiling tiling = kernels::preferred_tiling(weight, num_rows, cores);
  return {num_rows, weight.out_features(), tiling.rows, tiling.outputs};
}

std::vector<double> bytes_before(const TileGrid& grid, std::span<const uint32_t> order) {
  std::vector<double> before = {0};
  for (const uint32_t i : order) {
    const Tile tile = grid.tile(i / grid.num_panels(), i % grid.num_panels());
    before.push_back(before.back() +
                     static_cast<double>(tile.num_rows * tile.num_columns * sizeof(float)));
  }
  return before;
}

Plan make_plan(const TileGrid& grid, Collective collective, std::vector<size_t> group_ends,
               size_t num_ranks) {
  if (collective == Collective::kAllReduce)
    return Plan::all_reduce(grid, band_order(grid), std::move(group_ends));
  return Plan(grid, band_order(grid), std::move(group_ends), block_owners(grid, num_ranks),
              num_ranks);
}

void take_largest(const OverlapCall& call, std::span<double> values) {
  const size_t n = call.comm->size(), count = values.size();
  std::vector<double> all(n * count);
  std::vector<size_t> begins(n + 1);
  for (size_t rank = 0; rank <= n; ++rank) begins[rank] = rank * count * sizeof(double);
  std::copy(values.begin(), values.end(),
            all.begin() + static_cast<ptrdiff_t>(call.comm->rank() * count));
  call.comm->all_gather(std::as_writable_bytes(std::span(all)), begins, call.channel);
  for (size_t i = 0; i < all.size(); ++i) values[i % count] = std::max(values[i % count], all[i]);
}

double measure_collective(const OverlapCall& call, const TileGrid& grid, Collective collective) {
  std::vector<float> values(grid.rows * grid.columns);
  const std::vector<size_t> parts = comm::even_parts(values.size(), call.comm->size());
  std::vector<double> runs;
  for (int run = 0; run < 3; ++run) {
    call.comm->barrier(call.channel);
    const Clock::time_point begin = Clock::now();
    start(call, collective, values, parts).wait();
    runs.push_back(seconds_since(begin));
  }
  std::nth_element(runs.begin(), runs.begin() + 1, runs.end());
  take_largest(call, {&runs[1], 1});
  return runs[1];
}

LatencyModel measure(const OverlapCall& call, const TileGrid& grid, Collective collective,
                     const CoreSet& cores) {
  call.x->prepare(call.weight->activation_kind(), cores);
  const size_t size = grid.rows * grid.columns, num_tiles = grid.num_tiles();

  // The product alone; the first run warms up.
  std::vector<float> values(size);
  const Plan plan = make_plan(grid, Collective::kAllReduce, {num_tiles}, 1);
  std::vector<double> alone;
  for (int run = 0; run < 4; ++run) {
    const Clock::time_point begin = Clock::now();
    cores.parallel_for(num_tiles, 1, [&](size_t first, size_t last, size_t) {
      for (size_t p = first; p < last; ++p) {
        const Tile tile = plan.tile(p);
        kernels::multiply_tile(*call.weight, *call.x,
                               {tile.first_row, tile.num_rows, tile.first_column, tile.num_columns},
                               values.data() + plan.offset(p, tile.first_row), tile.num_columns);
      }
    });
    if (run > 0) alone.push_back(seconds_since(begin) / static_cast<double>(num_tiles));
  }
  std::nth_element(alone.begin(), alone.begin() + 1, alone.end());

  // Sizes from a tile up to all of it, each four times the one before.
  std::vector<size_t> sizes;
  for (size_t s = std::min(size, grid.tile_rows * grid.tile_columns); s < size; s *= 4)
    sizes.push_back(s);
  sizes.push_back(size);
  std::vector<double> figures = {alone[1]};
  double elapsed_s = 0, tiles = 0;
  for (const size_t s : sizes) {
    // As much data as the product has, but not one message only, and small ones not for ever.
    const Sample taken =
        sample(call, grid, collective, s, std::clamp<size_t>(size / s, 2, 24), cores);
    figures.push_back(taken.collective_s);
    elapsed_s += taken.elapsed_s;
    tiles += taken.tiles;
  }
  // Messages were under way all the time: what is missing of the tiles, they have cost.
  figures.push_back(std::clamp(1 - tiles * alone[1] / elapsed_s, 0.0, 0.95));

  // What reads the sums afterwards, through the map.
  std::vector<double> reading;
  std::vector<float> residual(size);
  for (int run = 0; run < 3; ++run) {
    const Clock::time_point begin = Clock::now();
    add_rows(plan, 0, values.data(), nullptr, {.rows = residual.data(), .stride = grid.columns},
             cores);
    reading.push_back(seconds_since(begin));
  }
  std::nth_element(reading.begin(), reading.begin() + 1, reading.end());
  figures.push_back(reading[1]);
  figures.push_back(measure_collective(call, grid, collective));
  take_largest(call, figures);

  std::vector<std::pair<double, double>> curve;
  for (size_t i = 0; i < sizes.size(); ++i)
    curve.emplace_back(static_cast<double>(sizes[i] * sizeof(float)), figures[i + 1]);
  return {.tile_s = figures[0],
          .interference = figures[sizes.size() + 1],
          .collective = LatencyCurve(std::move(curve)),
          .whole_s = figures.back(),
          .reading_s = figures[sizes.size() + 2]};
}

}  // namespace weft::parallel::flash_overlap
