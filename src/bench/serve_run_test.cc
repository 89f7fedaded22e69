#include "bench/serve_run.h"

#include <gtest/gtest.h>

namespace weft::bench {
namespace {

TEST(metric_value, is_that_of_the_whole_name) {
  const char* const text =
      "# HELP weft_hits_total_of_all Something else.\n"
      "weft_hits_total_of_all 5\n"
      "weft_hits_total{model=\"a b\"} 12\n"
      "weft_bytes 1.5e+09\n"
      "weft_last 0.25";
  EXPECT_EQ(metric_value(text, "weft_hits_total"), 12.0);
  EXPECT_EQ(metric_value(text, "weft_bytes"), 1.5e9);
  EXPECT_EQ(metric_value(text, "weft_last"), 0.25);
  EXPECT_EQ(metric_value(text, "weft_hits"), std::nullopt);
  EXPECT_EQ(metric_value("", "weft_hits"), std::nullopt);
}

}  // namespace
}  // namespace weft::bench
