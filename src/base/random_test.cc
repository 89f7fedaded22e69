#include "base/random.h"

#include <gtest/gtest.h>

#include <set>

namespace weft {
namespace {

struct KnownAnswer {
  const char* name;
  PhiloxCounter counter;
  PhiloxKey key;
  PhiloxCounter expected;
};

// The rows "philox4x32 10" of kat_vectors in Random123 (D. E. Shaw Research), the generator's
// authors.
constexpr KnownAnswer kKnownAnswers[] = {
    {"zeros", {0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {"ones",
     {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {"pi",
     {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

TEST(philox, known_answers) {
  for (const KnownAnswer& row : kKnownAnswers)
    EXPECT_EQ(philox4x32(row.counter, row.key), row.expected) << row.name;
}

TEST(uniform, every_part_of_the_key_counts) {
  std::set<double> draws = {uniform(1, 2, 3, 4),
                            uniform(2, 2, 3, 4),
                            uniform(1, 3, 3, 4),
                            uniform(1, 2, 4, 4),
                            uniform(1, 2, 3, 5),
                            uniform(1 + (1ull << 32), 2, 3, 4),
                            uniform(1, 2 + (1ull << 32), 3, 4)};
  EXPECT_EQ(draws.size(), 7u);
}

// 10^5 draws: the mean of a uniform has deviation sqrt(1/12/1e5) = 0.0009; five of them are
// allowed.
TEST(uniform, fills_the_unit_interval_evenly) {
  constexpr int kDraws = 100000;
  double sum = 0, lowest = 1, highest = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = uniform(7, 11, static_cast<uint32_t>(i));
    sum += u;
    lowest = std::min(lowest, u);
    highest = std::max(highest, u);
  }
  EXPECT_GE(lowest, 0.0);
  EXPECT_LT(highest, 1.0);
  EXPECT_LT(lowest, 0.001);
  EXPECT_GT(highest, 0.999);
  EXPECT_NEAR(sum / kDraws, 0.5, 0.0046);
}

}  // namespace
}  // namespace weft
