// Line plots as SVG files.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace weft::bench {

struct PlotLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // (x, y), in the order to draw
};

struct Plot {
  std::string title, x_title, y_title;
  std::vector<PlotLine> lines;
};

std::string to_svg(const Plot& plot);
void write_plot(const std::filesystem::path& path, const Plot& plot);  // whole or not at all; kIo

}  // namespace weft::bench
