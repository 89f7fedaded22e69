#include "bench/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/file.h"

namespace weft::bench {
namespace {

constexpr double kWidth = 760, kHeight = 420, kLeft = 64, kRight = 190, kTop = 40, kBottom = 52;
// Told apart with any colour vision (Okabe and Ito).
constexpr const char* kColours[] = {"#000000", "#e69f00", "#56b4e9", "#009e73",
                                    "#d55e00", "#0072b2", "#cc79a7", "#999999"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else
      out += c;
  }
  return out;
}

// 1, 2 or 5 times a power of ten, so that an axis up to `most` has four to ten marks.
double mark_step(double most) {
  const double power = std::pow(10, std::floor(std::log10(most / 4)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (most / (factor * power) <= 10) return factor * power;
  return 10 * power;
}

}  // namespace

std::string to_svg(const Plot& plot) {
  double most_x = 0, most_y = 0;
  for (const PlotLine& line : plot.lines)
    for (const auto& [x, y] : line.points) {
      most_x = std::max(most_x, x);
      most_y = std::max(most_y, y);
    }
  if (!(most_x > 0)) most_x = 1;
  if (!(most_y > 0)) most_y = 1;
  const auto at_x = [&](double x) { return kLeft + x / most_x * (kWidth - kLeft - kRight); };
  const auto at_y = [&](double y) {
    return kHeight - kBottom - y / most_y * (kHeight - kTop - kBottom);
  };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"{}\" y=\"22\" font-size=\"15\">{}</text>\n",
      kWidth, kHeight, kLeft, escaped(plot.title));
  const double step_x = mark_step(most_x), step_y = mark_step(most_y);
  for (double y = 0; y <= most_y * 1.0001; y += step_y)
    svg += fmt::format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
        kLeft, kWidth - kRight, at_y(y), at_y(y), kLeft - 6, at_y(y) + 4, y);
  for (double x = 0; x <= most_x * 1.0001; x += step_x)
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", at_x(x),
                       kHeight - kBottom + 18, x);
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 12, escaped(plot.x_title));
  svg += fmt::format(
      "<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (kTop + kHeight - kBottom) / 2, escaped(plot.y_title));
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    const PlotLine& line = plot.lines[i];
    const char* const colour = kColours[i % std::size(kColours)];
    const char* const dashes = i >= std::size(kColours) ? " stroke-dasharray=\"5 3\"" : "";
    std::string points;
    for (const auto& [x, y] : line.points) points += fmt::format("{:.1f},{:.1f} ", at_x(x), at_y(y));
    const double legend = kTop + 16 * static_cast<double>(i);
    svg += fmt::format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n"
        "<line x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"2\"{}/>"
        "<text x=\"{}\" y=\"{}\">{}</text>\n",
        points, colour, dashes, kWidth - kRight + 14, kWidth - kRight + 38, legend, legend, colour,
        dashes, kWidth - kRight + 44, legend + 4, escaped(line.name));
  }
  return svg + "</svg>\n";
}

void write_plot(const std::filesystem::path& path, const Plot& plot) {
  AtomicFile file(path);
  file.write(to_svg(plot));
  file.commit();
}

}  // namespace weft::bench
