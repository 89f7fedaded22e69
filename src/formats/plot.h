// Line plots as SVG, alone in a file or inside a page. A page's style sheet may say how `.paper`,
// `.grid`, `text` and `.line0` (the first line, black otherwise) look.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft::formats {

struct PlotLine {
  std::string name;                               // beside it; empty: none
  std::vector<std::pair<double, double>> points;  // (x, y), in the order to draw
};

enum class PlotAxis : uint8_t { kFromZero, kLogarithmic };  // logarithmic: y <= 0 is not drawn

struct Plot {
  std::string title, x_title, y_title;
  std::vector<PlotLine> lines;
  PlotAxis y_axis = PlotAxis::kFromZero;
};

// Text inside an element of SVG or HTML.
std::string escaped(std::string_view text);

// Points that are no finite numbers are left out.
std::string to_svg(const Plot& plot);
void write_plot(const std::filesystem::path& path, const Plot& plot);  // whole or not at all; kIo

}  // namespace weft::formats
