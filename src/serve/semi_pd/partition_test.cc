#include "serve/semi_pd/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "base/error.h"

namespace weft::serve::semi_pd {
namespace {

TEST(partition, parses_what_it_prints) {
  for (const size_t cores : {1, 2, 3, 8})
    for (const Partition& partition : all_partitions(cores))
      EXPECT_EQ(parse_partition(to_string(partition), cores), partition) << to_string(partition);
  for (const double stall : {0.001, 0.02, 0.0125, 100.0})
    EXPECT_EQ(parse_partition(to_string(by_steps(2, stall)), 2), by_steps(2, stall)) << stall;
  EXPECT_EQ(parse_partition("auto", 2), std::nullopt);
}

TEST(partition, bad_ones_are_named) {
  for (const char* const bad : {"",
                                "1",
                                "3:0",
                                "0:2",
                                "1:2",
                                "2:1",
                                "9:9",
                                "1:1,lax",
                                "1:1strict",
                                "-1:3",
                                "1:1:1",
                                "2/2",
                                "2/2:",
                                "2/2:1.5",
                                "2/2:nan",
                                "2/2:-0.5",
                                "1/1:0.5",
                                "2/2:0ms",
                                "2/2:-20ms",
                                "2/2:nanms",
                                "2/2:1e9ms",
                                "2/2:20s",
                                "1:1:20ms",
                                "2/2:free2",
                                "18446744073709551615:3",
                                "99999999999999999999:1",
                                "unified,strict",
                                "AUTO"}) {
    try {
      parse_partition(bad, 2);
      ADD_FAILURE() << "accepted: " << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      EXPECT_NE(std::string(e.what()).find("--partition"), std::string::npos) << e.what();
    }
  }
}

TEST(partition, shares_add_up_to_the_machine) {
  for (const size_t cores : {1, 2, 3, 8})
    for (const Partition& partition : all_partitions(cores))
      EXPECT_NEAR(prefill_share(partition, cores) + decode_share(partition, cores),
                  static_cast<double>(cores), 1e-12)
          << to_string(partition);
}

// core.one_core_fallback: nothing to divide.
TEST(partition, on_one_core_there_is_one_loop) {
  const auto partitions = automatic_partitions(1);
  ASSERT_EQ(partitions.size(), 1u);
  EXPECT_EQ(partitions[0], unified(1));
}

TEST(partition, the_controller_never_chooses_what_bounds_nothing) {
  for (const Partition& partition : automatic_partitions(4)) {
    EXPECT_NE(partition.kind, Partition::Kind::kFree);
    EXPECT_TRUE(partition.lend);
  }
}

TEST(partition, with_a_bound_of_the_stall_every_choice_keeps_it) {
  for (const Partition& partition : automatic_partitions(2, 0.02)) {
    const bool keeps = partition.kind == Partition::Kind::kUnified || partition == by_steps(2, 0.02);
    EXPECT_TRUE(keeps) << to_string(partition);
  }
  EXPECT_EQ(automatic_partitions(1, 0.02), std::vector<Partition>{unified(1)});
}

// A step and the turn after it fit the bound, unless a step alone does not.
TEST(partition, turns_by_steps_fit_the_bound) {
  for (const double step_s : {0.001, 0.005, 0.015})
    EXPECT_LE(step_s + prefill_turn_s(0.02, step_s), 0.02) << step_s;
  EXPECT_DOUBLE_EQ(prefill_turn_s(0.02, 0.04), 0.005);
}

}  // namespace
}  // namespace weft::serve::semi_pd
