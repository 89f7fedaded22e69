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

}  // namespace
}  // namespace weft::serve::semi_pd
