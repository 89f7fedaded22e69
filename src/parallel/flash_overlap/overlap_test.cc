#include "parallel/flash_overlap/overlap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "base/error.h"
#include "comm/thread_transport.h"
#include "kernels/elementwise.h"
#include "kernels/test_values.h"
#include "parallel/flash_overlap/tuner.h"

namespace weft::parallel::flash_overlap {
namespace {

using comm::Communicator;
using kernels::Linear;
using kernels::random_linear;
using kernels::random_values;

// What one rank multiplies: never constants, which no error of order would show.
struct Shard {
  Shard(size_t rows, size_t columns, size_t k, uint32_t seed)
      : x(random_values(rows * k, seed + 1000)), weight(random_linear(columns, k, seed)) {
    activations.set(x.data(), rows, k, k);
  }
  std::vector<float> x;
  Linear weight;
  kernels::Activations activations;
};

// The plain way: the whole product row after row, then one collective.
std::vector<float> product_then_sum(Shard& shard, size_t rows, size_t columns,
                                    const Communicator& ranks) {
  std::vector<float> y(rows * columns);
  const kernels::LinearCall call[] = {{&shard.weight, y.data(), columns}};
  kernels::multiply(call, shard.activations, CoreSet());
  ranks.all_reduce(y);
  return y;
}

std::vector<size_t> random_groups(size_t num_tiles, std::mt19937& random) {
  std::vector<size_t> ends;
  for (size_t end = 0; end < num_tiles;)
    ends.push_back(end = std::min(num_tiles, end + 1 + random() % 4));
  return ends;
}

struct Shape {
  size_t rows, columns, k, tile_rows, tile_columns;
};
constexpr Shape kShapes[] = {{1, 64, 48, 8, 16},
                             {3, 100, 32, 8, 32},
                             {127, 64, 64, 16, 64},
                             {129, 70, 40, 32, 32},
                             {40, 1000, 24, 24, 160}};

TEST(flash_overlap, all_reduce_is_the_plain_one_bit_for_bit) {
  for (size_t num_ranks = 1; num_ranks <= 8; ++num_ranks) {
    for (const Shape& s : kShapes) {
      comm::run_thread_ranks(num_ranks, [&](const Communicator& ranks) {
        Shard shard(s.rows, s.columns, s.k, static_cast<uint32_t>(ranks.rank()));
        const std::vector<float> plain = product_then_sum(shard, s.rows, s.columns, ranks);
        const TileGrid grid{s.rows, s.columns, s.tile_rows, s.tile_columns};
        std::mt19937 random(7);  // the same on all ranks
        std::vector<uint32_t> shuffled = band_order(grid);
        std::shuffle(shuffled.begin(), shuffled.end(), random);
        ThreadPool pool(2);
        for (const auto& [order, groups] :
             {std::pair{band_order(grid), equal_groups(grid.num_tiles(), 1)},
              std::pair{band_order(grid), equal_groups(grid.num_tiles(), grid.num_tiles())},
              std::pair{shuffled, random_groups(grid.num_tiles(), random)}}) {
          const Plan plan = Plan::all_reduce(grid, order, groups);
          check_agreement(plan, ranks);
          std::vector<float> values(plan.size());
          multiply_all_reduce({&shard.weight, &shard.activations, &ranks}, plan, values.data(),
                              pool.cores());

          // Read through the map, onto a residual stream, with and without the norm behind it.
          const std::vector<float> bias = random_values(s.columns, 5);
          const std::vector<float> norm_weight = random_values(s.columns, 6);
          std::vector<float> residual = random_values(plan.size(), 4), also = residual;
          std::vector<float> expected = residual, normed(plan.size());
          add_rows(plan, 0, values.data(), bias.data(), {residual.data(), s.columns},
                   pool.cores());
          add_rows(plan, 0, values.data(), bias.data(),
                   {also.data(), s.columns, {norm_weight.data(), 1e-5f, normed.data()}},
                   pool.cores());
          for (size_t i = 0; i < expected.size(); ++i)
            expected[i] += plain[i] + bias[i % s.columns];
          ASSERT_EQ(residual, expected) << num_ranks << " ranks, " << s.rows << " rows";
          ASSERT_EQ(also, expected);
          std::vector<float> row(s.columns);
          for (size_t r = 0; r < s.rows; ++r) {
            kernels::rms_norm(expected.data() + r * s.columns, norm_weight.data(), 1e-5f, s.columns,
                              row.data());
            ASSERT_EQ(0, std::memcmp(row.data(), normed.data() + r * s.columns,
                                     s.columns * sizeof(float)));
          }
        }
      });
    }
  }
}

TEST(flash_overlap, reduce_scatter_gives_each_rank_its_rows) {
  for (size_t num_ranks = 1; num_ranks <= 8; ++num_ranks) {
    for (const Shape& s : kShapes) {
      comm::run_thread_ranks(num_ranks, [&](const Communicator& ranks) {
        Shard shard(s.rows, s.columns, s.k, static_cast<uint32_t>(ranks.rank()));
        const std::vector<float> plain = product_then_sum(shard, s.rows, s.columns, ranks);
        const TileGrid grid{s.rows, s.columns, s.tile_rows, s.tile_columns};
        std::mt19937 random(11);
        const Plan plan(grid, band_order(grid), random_groups(grid.num_tiles(), random),
                        block_owners(grid, num_ranks), num_ranks);
        std::vector<float> values(plan.size());
        ThreadPool pool(2);
        multiply_reduce_scatter({&shard.weight, &shard.activations, &ranks}, plan, values.data(),
                                pool.cores());
        std::vector<float> own(plan.size(), 0.0f);
        add_rows(plan, ranks.rank(), values.data(), nullptr, {own.data(), s.columns}, CoreSet());
        for (size_t row = 0; row < s.rows; ++row)
          for (size_t c = 0; c < s.columns; ++c)
            ASSERT_EQ(own[row * s.columns + c],
                      plan.destination(row) == ranks.rank() ? plain[row * s.columns + c] : 0.0f);
      });
    }
  }
}

// Every rank has rows of its own number; some go nowhere else, some ranks get none.
TEST(flash_overlap, all_to_all_brings_rows_where_they_belong) {
  constexpr size_t kColumns = 100, kGroups = 3;
  for (size_t num_ranks = 1; num_ranks <= 5; ++num_ranks) {
    for (const char* routing : {"even", "skewed", "all to one"}) {
      comm::run_thread_ranks(num_ranks, [&](const Communicator& ranks) {
        std::vector<Plan> plans;
        for (size_t source = 0; source < num_ranks; ++source) {
          const TileGrid grid{17 + 9 * source, kColumns, 8, 48};
          std::vector<uint32_t> destinations(grid.rows);
          std::mt19937 random(static_cast<uint32_t>(source));
          for (uint32_t& d : destinations)
            d = static_cast<uint32_t>(routing[0] == 'e'   ? random() % num_ranks
                                      : routing[0] == 's' ? (random() % 5 == 0 ? num_ranks - 1 : 0)
                                                          : num_ranks - 1);
          plans.emplace_back(grid, band_order(grid), equal_groups(grid.num_tiles(), kGroups),
                             destinations, num_ranks);
        }
        const Inbox inbox(plans, ranks.rank());
        const Plan& plan = plans[ranks.rank()];
        Shard shard(plan.grid().rows, kColumns, 32, static_cast<uint32_t>(ranks.rank()));
        std::vector<float> values(plan.size()), received(inbox.size());
        ThreadPool pool(2);
        multiply_all_to_all({&shard.weight, &shard.activations, &ranks}, plans, inbox,
                            values.data(), received.data(), pool.cores());
        for (size_t source = 0; source < num_ranks; ++source) {
          const TileGrid& grid = plans[source].grid();
          Shard theirs(grid.rows, kColumns, 32, static_cast<uint32_t>(source));
          std::vector<float> y(grid.rows * kColumns);
          const kernels::LinearCall call[] = {{&theirs.weight, y.data(), kColumns}};
          kernels::multiply(call, theirs.activations, CoreSet());
          for (size_t row = 0; row < grid.rows; ++row) {
            if (plans[source].destination(row) != ranks.rank()) continue;
            for (size_t c = 0; c < kColumns; ++c) {
              const size_t panel = c / grid.tile_columns;
              ASSERT_EQ(received[inbox.offset_in_panel(plans[source], source, row, panel) +
                                 c % grid.tile_columns],
                        y[row * kColumns + c])
                  << routing << ": source " << source << ", row " << row;
            }
          }
        }
      });
    }
  }
}

// Two tiles change places on one rank: the sums are plausible and wrong. The check says so before.
TEST(flash_overlap, another_order_on_one_rank_is_noticed) {
  const TileGrid grid{32, 64, 8, 32};
  EXPECT_THROW(comm::run_thread_ranks(2,
                                      [&](const Communicator& ranks) {
                                        std::vector<uint32_t> order = band_order(grid);
                                        if (ranks.rank() == 1) std::swap(order[2], order[5]);
                                        const Plan plan =
                                            Plan::all_reduce(grid, order, equal_groups(8, 3));
                                        check_agreement(plan, ranks);
                                      }),
               Error);
  // And without the check the result is wrong, so the tests above would see it.
  comm::run_thread_ranks(2, [&](const Communicator& ranks) {
    Shard shard(32, 64, 16, static_cast<uint32_t>(ranks.rank()));
    const std::vector<float> plain = product_then_sum(shard, 32, 64, ranks);
    std::vector<uint32_t> order = band_order(grid);
    if (ranks.rank() == 1) std::swap(order[2], order[5]);
    const Plan plan = Plan::all_reduce(grid, order, equal_groups(8, 3));
    std::vector<float> values(plan.size()), y(plan.size(), 0.0f);
    multiply_all_reduce({&shard.weight, &shard.activations, &ranks}, plan, values.data(),
                        CoreSet());
    add_rows(plan, 0, values.data(), nullptr, {y.data(), 64}, CoreSet());
    EXPECT_NE(y, plain);
  });
}

// Many calls of changing shape one after the other: no count of one call is taken for another's.
TEST(flash_overlap, thousands_of_calls_back_to_back) {
  comm::run_thread_ranks(2, [&](const Communicator& ranks) {
    std::vector<std::unique_ptr<Shard>> shards;
    std::vector<std::vector<float>> plain;
    std::vector<Plan> plans;
    std::mt19937 random(3);
    for (const Shape& s :
         {Shape{5, 48, 8, 8, 16}, Shape{16, 32, 8, 8, 16}, Shape{1, 80, 8, 8, 16}}) {
      shards.push_back(
          std::make_unique<Shard>(s.rows, s.columns, s.k, static_cast<uint32_t>(ranks.rank())));
      plain.push_back(product_then_sum(*shards.back(), s.rows, s.columns, ranks));
      const TileGrid grid{s.rows, s.columns, s.tile_rows, s.tile_columns};
      plans.push_back(
          Plan::all_reduce(grid, band_order(grid), random_groups(grid.num_tiles(), random)));
    }
    ThreadPool pool(2);
    for (size_t i = 0; i < 3000; ++i) {
      const size_t which = i % 3;
      const Plan& plan = plans[which];
      std::vector<float> values(plan.size()), y(plan.size(), 0.0f);
      multiply_all_reduce({&shards[which]->weight, &shards[which]->activations, &ranks}, plan,
                          values.data(), pool.cores());
      add_rows(plan, 0, values.data(), nullptr, {y.data(), plan.grid().columns}, CoreSet());
      ASSERT_EQ(y, plain[which]) << "call " << i;
    }
  });
}

TEST(flash_overlap, a_trace_tells_when_tiles_and_groups_were_there) {
  comm::run_thread_ranks(2, [&](const Communicator& ranks) {
    Shard shard(64, 64, 32, static_cast<uint32_t>(ranks.rank()));
    const TileGrid grid{64, 64, 16, 32};
    const Plan plan = Plan::all_reduce(grid, band_order(grid), equal_groups(grid.num_tiles(), 4));
    std::vector<float> values(plan.size());
    Trace trace;
    multiply_all_reduce({&shard.weight, &shard.activations, &ranks, 0, &trace}, plan, values.data(),
                        CoreSet());
    ASSERT_EQ(trace.tiles.size(), 8u);
    ASSERT_EQ(trace.groups.size(), 4u);
    for (size_t p = 0; p < 8; ++p) {
      EXPECT_LE(trace.tiles[p].begin_s, trace.tiles[p].end_s);
      EXPECT_LE(trace.tiles[p].end_s, trace.groups[plan.group_of(p)].begin_s);
    }
    for (const Trace::Span& group : trace.groups) EXPECT_LE(group.end_s, trace.total_s);
  });
}

TEST(flash_overlap, a_lost_rank_ends_the_call) {
  try {
    comm::run_thread_ranks(2, [&](const Communicator& ranks) {
      if (ranks.rank() == 1) fail(ErrorKind::kIo, "rank 1 gives up");
      Shard shard(64, 64, 32, 1);
      const TileGrid grid{64, 64, 16, 32};
      const Plan plan = Plan::all_reduce(grid, band_order(grid), equal_groups(8, 4));
      std::vector<float> values(plan.size());
      EXPECT_THROW(multiply_all_reduce({&shard.weight, &shard.activations, &ranks}, plan,
                                       values.data(), CoreSet()),
                   Error);
    });
    FAIL() << "rank 1's error is nobody's";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "rank 1 gives up");
  }
}

}  // namespace
}  // namespace weft::parallel::flash_overlap
