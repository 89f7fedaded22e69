#include "base/terminal_line.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(terminal_line, minutes_as_people_read_them) {
  EXPECT_EQ(minutes(0), "0:00");
  EXPECT_EQ(minutes(6.6), "0:07");
  EXPECT_EQ(minutes(59.6), "1:00");
  EXPECT_EQ(minutes(3599), "59:59");
  EXPECT_EQ(minutes(3723), "1:02:03");
}

TEST(terminal_line, drawn_over_and_cleared) {
  ::testing::internal::CaptureStderr();
  draw_line("12 %");
  draw_line("13 %");
  clear_line();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "\r\033[K12 %\r\033[K13 %\r\033[K");
}

}  // namespace
}  // namespace weft
