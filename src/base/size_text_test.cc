#include "base/size_text.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(size_text, amounts) {
  EXPECT_EQ(parse_size("1"), 1u);
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("512B"), 512u);
  for (const char* text : {"3M", "3m", "3MB", "3MiB", "3 MiB", "3mib", "3072K", "3145728"})
    EXPECT_EQ(parse_size(text), size_t{3} << 20) << text;
  EXPECT_EQ(parse_size("1.5G"), size_t{3} << 29);
  EXPECT_EQ(parse_size("0.5KiB"), 512u);
  EXPECT_EQ(parse_size("2T"), size_t{2} << 40);
}

TEST(size_text, no_amounts) {
  for (const char* text : {"", "M", "0", "0.1", "-1", "1.5X", "1MM", "1iB", "1Mi", "3 apples",
                           "inf", "nan", "1e30", "2000000T", "50%"})
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
}

}  // namespace
}  // namespace weft
