#include "parallel/flash_overlap/tuner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "base/error.h"

namespace weft::parallel::flash_overlap {
namespace {

LatencyModel random_model(std::mt19937& random) {
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  std::vector<std::pair<double, double>> points;
  double bytes = 0, seconds = uniform(0, 2);
  for (size_t i = 0; i < 6; ++i) {
    points.emplace_back(bytes += uniform(0.5, 4), seconds);
    seconds += uniform(-0.3, 2) > 0 ? uniform(0, 2) : -std::min(seconds, 0.2);  // may fall, too
  }
  return {.tile_s = uniform(0.1, 2),
          .interference = uniform(0, 0.8),
          .collective = LatencyCurve(points),
          .whole_s = uniform(5, 15)};
}

std::vector<double> random_bytes(std::mt19937& random, size_t num_tiles) {
  std::vector<double> before = {0};
  for (size_t i = 0; i < num_tiles; ++i)
    before.push_back(before.back() + std::uniform_real_distribution<double>(0.3, 1.5)(random));
  return before;
}

TEST(flash_overlap_tuner, no_partition_is_better) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const size_t num_tiles = 1 + random() % 11;
    const LatencyModel model = random_model(random);
    const std::vector<double> before = random_bytes(random, num_tiles);
    double best = std::numeric_limits<double>::infinity();
    for (uint32_t cuts = 0; cuts < 1u << (num_tiles - 1); ++cuts) {
      std::vector<size_t> ends;
      for (size_t i = 1; i < num_tiles; ++i)
        if (cuts >> (i - 1) & 1) ends.push_back(i);
      ends.push_back(num_tiles);
      best = std::min(best, predict_s(ends, before, model));
    }
    const std::vector<size_t> found = best_groups(before, model);
    EXPECT_NEAR(predict_s(found, before, model), best, 1e-12 * best);
    EXPECT_EQ(found.back(), num_tiles);
    EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
    EXPECT_EQ(std::adjacent_find(found.begin(), found.end()), found.end());
  }
}

// Algorithm 1 of the paper by hand: groups of 1 and 2 tiles, 2 s a tile, 1 s + 1 s a byte.
TEST(flash_overlap_tuner, predicts_as_the_papers_algorithm) {
  LatencyModel model{.tile_s = 2, .collective = LatencyCurve({{0, 1}, {1, 2}}), .whole_s = 4};
  const std::vector<double> before = {0, 1, 2, 3};
  // The first group is there at 2 + 2 = 4, the second can start at 6 and takes 1 + 2.
  EXPECT_DOUBLE_EQ(predict_s(std::vector<size_t>{1, 3}, before, model), 9);
  EXPECT_DOUBLE_EQ(predict_s(std::vector<size_t>{3}, before, model), 6 + 4);
  model.interference = 0.5;  // the first group's 2 s cost the product 1 s
  EXPECT_DOUBLE_EQ(predict_s(std::vector<size_t>{1, 3}, before, model), 10);
}

TEST(flash_overlap_tuner, where_a_message_costs_much_and_bytes_nothing_there_is_one_group) {
  const LatencyModel model{
      .tile_s = 1, .interference = 0.2, .collective = LatencyCurve({{0, 50}}), .whole_s = 50};
  const std::vector<double> before = {0, 1, 2, 3, 4};
  EXPECT_EQ(best_groups(before, model), std::vector<size_t>{4});
}

TEST(flash_overlap_tuner, a_step_limits_where_groups_end) {
  const LatencyModel model{
      .tile_s = 1, .collective = LatencyCurve({{0, 0.01}, {1, 1.01}}), .whole_s = 10};
  std::vector<double> before;
  for (size_t i = 0; i <= 10; ++i) before.push_back(static_cast<double>(i));
  for (const size_t end : best_groups(before, model, 4))
    EXPECT_TRUE(end % 4 == 0 || end == 10) << end;
  EXPECT_GT(best_groups(before, model, 4).size(), 1u);
}

TEST(flash_overlap_tuner, equal_groups_are_equal) {
  EXPECT_EQ(equal_groups(10, 4), (std::vector<size_t>{2, 5, 7, 10}));
  EXPECT_EQ(equal_groups(3, 8), (std::vector<size_t>{1, 2, 3}));
}

TEST(flash_overlap_tuner, bad_curves_are_refused) {
  EXPECT_THROW(LatencyCurve({}), Error);
  EXPECT_THROW(LatencyCurve({{1, 1}, {1, 2}}), Error);
  EXPECT_THROW(LatencyCurve({{1, -1}}), Error);
  EXPECT_THROW(LatencyCurve({{1, std::numeric_limits<double>::quiet_NaN()}}), Error);
}

}  // namespace
}  // namespace weft::parallel::flash_overlap
