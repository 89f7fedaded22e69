#include "formats/plot.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weft::formats {
namespace {

bool holds(const std::string& svg, const std::string& text) {
  return svg.find(text) != std::string::npos;
}

TEST(plot, from_zero_to_the_largest) {
  const std::string svg = to_svg({.title = "a < b & c",
                                  .x_title = "x",
                                  .y_title = "y",
                                  .lines = {{"one", {{0, 0}, {10, 4}}}}});
  EXPECT_TRUE(holds(svg, "a &lt; b &amp; c"));
  EXPECT_TRUE(holds(svg, "points=\"64.0,368.0 570.0,40.0 \"")) << svg;  // corner to corner
  EXPECT_TRUE(holds(svg, ">10</text>"));
}

// The axis of 0.03 to 4 runs from 0.01 to 10: 0.1 and 1 lie a third and two thirds of the way up.
TEST(plot, names_take_the_room_that_they_need) {
  const std::vector<std::pair<double, double>> points = {{0, 0}, {1, 1}};
  const auto with_name = [&](const std::string& name) {
    return to_svg({.title = "", .x_title = "", .y_title = "", .lines = {{name, points}}});
  };
  EXPECT_TRUE(holds(with_name(""), "736.0,40.0"));
  EXPECT_TRUE(holds(with_name("short"), "570.0,40.0"));
  EXPECT_TRUE(holds(with_name(std::string(40, 'n')), "444.0,40.0"));
  EXPECT_TRUE(holds(with_name(std::string(400, 'n')), "420.0,40.0"));
}

TEST(plot, a_logarithmic_axis_ends_at_marks) {
  const std::string svg = to_svg({.title = "loss",
                                  .x_title = "",
                                  .y_title = "",
                                  .lines = {{"one", {{0, 4}, {5, 1}, {10, 0.03}}}},
                                  .y_axis = PlotAxis::kLogarithmic});
  for (const char* mark : {">0.01<", ">0.1<", ">1<", ">10<"}) EXPECT_TRUE(holds(svg, mark)) << mark;
  EXPECT_TRUE(holds(svg, "317.0,149.3")) << svg;  // 40 + 328 / 3
}

TEST(plot, what_cannot_be_drawn_is_left_out) {
  const PlotLine line{"one", {{0, 1}, {1, NAN}, {2, INFINITY}, {3, -1}, {4, 0}, {5, 2}}};
  const std::string svg = to_svg({.title = "",
                                  .x_title = "",
                                  .y_title = "",
                                  .lines = {line},
                                  .y_axis = PlotAxis::kLogarithmic});
  EXPECT_FALSE(holds(svg, "nan"));
  EXPECT_FALSE(holds(svg, "inf"));
  for (const PlotAxis axis : {PlotAxis::kFromZero, PlotAxis::kLogarithmic})
    for (const std::vector<PlotLine>& none :
         {std::vector<PlotLine>{}, {{"empty", {}}}, {{"zero", {{0, 0}}}}}) {
      const std::string empty =
          to_svg({.title = "", .x_title = "", .y_title = "", .lines = none, .y_axis = axis});
      EXPECT_FALSE(holds(empty, "nan")) << empty;
      EXPECT_FALSE(holds(empty, "inf")) << empty;
    }
}

}  // namespace
}  // namespace weft::formats
