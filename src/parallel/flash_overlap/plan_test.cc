#include "parallel/flash_overlap/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace weft::parallel::flash_overlap {
namespace {

// The golden example of the specification: 8 x 6, tiles of 4 x 2, taken column after column.
const TileGrid kGolden{.rows = 8, .columns = 6, .tile_rows = 4, .tile_columns = 2};
const std::vector<uint32_t> kGoldenOrder = {0, 3, 1,
                                            4, 2, 5};  // (0,0) (1,0) (0,1) (1,1) (0,2) (1,2)

TEST(flash_overlap_plan, golden_all_reduce) {
  const Plan plan = Plan::all_reduce(kGolden, kGoldenOrder, {2, 6});
  EXPECT_EQ(plan.offset_in_panel(5, 1), 26u);  // (5, 2); (5, 3) is the value after it, 27
  EXPECT_EQ(plan.group_of(3), 1u);
  EXPECT_EQ(plan.segment(0).size, 16u);
  EXPECT_TRUE(plan.tiles_are_contiguous());
}

TEST(flash_overlap_plan, golden_reduce_scatter) {
  const Plan plan(kGolden, kGoldenOrder, {2, 6}, block_owners(kGolden, 2), 2);
  EXPECT_EQ(plan.segment(0, 0).offset, 0u);
  EXPECT_EQ(plan.segment(0, 1).offset, 8u);
  EXPECT_EQ(plan.offset(0, 0), 0u);   // rank 0: rows 0 and 1 of (0, 0),
  EXPECT_EQ(plan.offset(1, 4), 4u);   // then rows 4 and 5 of (1, 0)
  EXPECT_EQ(plan.offset(0, 2), 8u);   // rank 1: rows 2 and 3,
  EXPECT_EQ(plan.offset(1, 7), 14u);  // then 6 and 7
  EXPECT_EQ(plan.segment(1, 0).offset, 16u);
}

TEST(flash_overlap_plan, golden_all_to_all) {
  std::vector<uint32_t> destinations(8);
  for (uint32_t row = 0; row < 8; ++row) destinations[row] = row % 2;
  const Plan plan(kGolden, kGoldenOrder, {2, 6}, destinations, 2);
  EXPECT_EQ(plan.segment(0, 1).size, 8u);
  EXPECT_EQ(plan.segment(1, 1).size, 16u);
  const size_t at = plan.segment(0, 1).offset;
  EXPECT_EQ(plan.offset(0, 1), at);
  EXPECT_EQ(plan.offset(0, 3), at + 2);
  EXPECT_EQ(plan.offset(1, 5), at + 4);
  EXPECT_EQ(plan.offset(1, 7), at + 6);
}

// Whatever the shape, order, groups and destinations: every value has a place of its own, in the
// segment of its group and destination, and is found where the reader looks for it.
TEST(flash_overlap_plan, every_value_is_sent_once_and_found) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto between = [&](size_t low, size_t high) { return low + random() % (high - low + 1); };
    const TileGrid grid{between(1, 40), between(1, 30), between(1, 17), between(1, 13)};
    std::vector<uint32_t> order = band_order(grid);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<size_t> ends;
    for (size_t end = 0; end < order.size();)
      ends.push_back(end = std::min(order.size(), end + between(1, 5)));
    const size_t n = between(1, 5);
    std::vector<uint32_t> destinations = block_owners(grid, n);
    if (seed % 2 == 1)  // some destinations may get nothing
      for (uint32_t& d : destinations) d = static_cast<uint32_t>(random() % n);
    const Plan plan(grid, order, ends, destinations, n);

    std::vector<float> sent(grid.rows * grid.columns, -1);
    for (size_t p = 0; p < plan.num_tiles(); ++p) {
      const Tile tile = plan.tile(p);
      for (size_t row = tile.first_row; row < tile.first_row + tile.num_rows; ++row) {
        const size_t at = plan.offset(p, row);
        const Segment segment = plan.segment(plan.group_of(p), destinations[row]);
        ASSERT_GE(at, segment.offset);
        ASSERT_LE(at + tile.num_columns, segment.offset + segment.size);
        for (size_t c = 0; c < tile.num_columns; ++c) {
          ASSERT_EQ(sent[at + c], -1);
          sent[at + c] = static_cast<float>(row * grid.columns + tile.first_column + c);
        }
      }
    }
    for (size_t row = 0; row < grid.rows; ++row)
      for (size_t panel = 0; panel < grid.num_panels(); ++panel) {
        const Tile tile = grid.tile(row / grid.tile_rows, panel);
        for (size_t c = 0; c < tile.num_columns; ++c)
          ASSERT_EQ(sent[plan.offset_in_panel(row, panel) + c],
                    static_cast<float>(row * grid.columns + tile.first_column + c));
      }
  }
}

TEST(flash_overlap_plan, owners_share_each_bands_rows) {
  const TileGrid grid{.rows = 11, .columns = 1, .tile_rows = 8, .tile_columns = 1};
  EXPECT_EQ(block_owners(grid, 3), (std::vector<uint32_t>{0, 0, 0, 1, 1, 1, 2, 2, 0, 1, 2}));
  EXPECT_EQ(block_owners(grid, 5), (std::vector<uint32_t>{0, 0, 1, 1, 2, 2, 3, 4, 0, 1, 2}));
}

// Two ranks that would add up unrelated values must notice.
TEST(flash_overlap_plan, hashes_tell_plans_apart) {
  std::set<uint64_t> hashes;
  hashes.insert(Plan::all_reduce(kGolden, kGoldenOrder, {2, 6}).hash());
  hashes.insert(Plan::all_reduce(kGolden, kGoldenOrder, {3, 6}).hash());
  hashes.insert(Plan::all_reduce(kGolden, kGoldenOrder, {6}).hash());
  hashes.insert(Plan::all_reduce(kGolden, {3, 0, 1, 4, 2, 5}, {2, 6}).hash());
  hashes.insert(Plan::all_reduce({8, 6, 4, 3}, band_order({8, 6, 4, 3}), {2, 4}).hash());
  hashes.insert(Plan(kGolden, kGoldenOrder, {2, 6}, block_owners(kGolden, 2), 2).hash());
  EXPECT_EQ(hashes.size(), 6u);
}

}  // namespace
}  // namespace weft::parallel::flash_overlap
