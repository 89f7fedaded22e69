#include "formats/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/file.h"

namespace weft::formats {
namespace {

constexpr double kWidth = 760, kHeight = 420, kLeft = 64, kTop = 40, kBottom = 52;
// Told apart with any colour vision (Okabe and Ito).
constexpr const char* kColours[] = {"#000000", "#e69f00", "#56b4e9", "#009e73",
                                    "#d55e00", "#0072b2", "#cc79a7", "#999999"};

// What the names of lines take at the right, in 12 pixels' type.
double legend_width(const std::vector<PlotLine>& lines) {
  constexpr double kNone = 24, kLeast = 190, kMost = 340, kMark = 52, kLetter = 6.6;
  size_t longest = 0;
  for (const PlotLine& line : lines) longest = std::max(longest, line.name.size());
  return longest == 0 ? kNone
                      : std::clamp(kMark + kLetter * static_cast<double>(longest), kLeast, kMost);
}

// 1, 2 or 5 times a power of ten, so that an axis up to `most` has four to ten marks.
double mark_step(double most) {
  const double power = std::pow(10, std::floor(std::log10(most / 4)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (most / (factor * power) <= 10) return factor * power;
  return 10 * power;
}

// An axis from `low` to `high`, both drawn, and where its marks are.
struct Axis {
  double low = 0, high = 1;
  bool logarithmic = false;
  std::vector<double> marks;

  // 0 at the low end, 1 at the high one.
  double at(double value) const {
    return logarithmic ? std::log(value / low) / std::log(high / low)
                       : (value - low) / (high - low);
  }
};

Axis from_zero(double most) {
  Axis axis{.high = most > 0 ? most : 1, .marks = {}};
  const double step = mark_step(axis.high);
  for (double mark = 0; mark <= axis.high * 1.0001; mark += step) axis.marks.push_back(mark);
  return axis;
}

// From the last of 1, 2, 5 times a power of ten below to the first above, marked at all of them;
// over more than two decades, at the powers alone.
Axis logarithmic(double least, double most) {
  if (!(least > 0) || !(most > 0)) least = most = 1;
  Axis axis{.logarithmic = true, .marks = {}};
  const bool powers_alone = most / least > 100;
  std::vector<double> all;
  for (int power = static_cast<int>(std::floor(std::log10(least))) - 1;
       power <= static_cast<int>(std::ceil(std::log10(most))) + 1; ++power)
    for (const double factor : {1.0, 2.0, 5.0})
      if (factor == 1 || !powers_alone) all.push_back(factor * std::pow(10, power));
  const auto above = std::find_if(all.begin(), all.end(), [&](double m) { return m > most; });
  const auto below = std::find_if(all.rbegin(), all.rend(), [&](double m) { return m <= least; });
  axis.marks.assign(below.base() - 1, above + 1);
  axis.low = axis.marks.front();
  axis.high = axis.marks.back();
  return axis;
}

}  // namespace

std::string escaped(std::string_view text) {
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

std::string to_svg(const Plot& plot) {
  const double right = kWidth - legend_width(plot.lines);
  const auto drawn = [&](double x, double y) {
    return std::isfinite(x) && std::isfinite(y) && (plot.y_axis == PlotAxis::kFromZero || y > 0);
  };
  double most_x = 0, most_y = 0, least_y = INFINITY;
  for (const PlotLine& line : plot.lines)
    for (const auto& [x, y] : line.points) {
      if (!drawn(x, y)) continue;
      most_x = std::max(most_x, x);
      most_y = std::max(most_y, y);
      least_y = std::min(least_y, y);
    }
  const Axis x_axis = from_zero(most_x);
  const Axis y_axis = plot.y_axis == PlotAxis::kFromZero
                          ? from_zero(most_y)
                          : logarithmic(std::min(least_y, most_y), most_y);
  const auto at_x = [&](double x) { return kLeft + x_axis.at(x) * (right - kLeft); };
  const auto at_y = [&](double y) {
    return kHeight - kBottom - y_axis.at(y) * (kHeight - kTop - kBottom);
  };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"{}\" y=\"22\" font-size=\"15\">{}</text>\n",
      kWidth, kHeight, kLeft, escaped(plot.title));
  for (const double y : y_axis.marks)
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
        kLeft, right, at_y(y), at_y(y), kLeft - 6, at_y(y) + 4, y);
  for (const double x : x_axis.marks)
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", at_x(x),
                       kHeight - kBottom + 18, x);
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                     (kLeft + right) / 2, kHeight - 12, escaped(plot.x_title));
  svg += fmt::format(
      "<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (kTop + kHeight - kBottom) / 2, escaped(plot.y_title));
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    const PlotLine& line = plot.lines[i];
    const char* const colour = kColours[i % std::size(kColours)];
    const char* const dashes = i >= std::size(kColours) ? " stroke-dasharray=\"5 3\"" : "";
    std::string points;
    for (const auto& [x, y] : line.points)
      if (drawn(x, y)) points += fmt::format("{:.1f},{:.1f} ", at_x(x), at_y(y));
    svg += fmt::format(
        "<polyline class=\"line{}\" points=\"{}\" fill=\"none\" stroke=\"{}\" "
        "stroke-width=\"2\"{}/>\n",
        i, points, colour, dashes);
    if (line.name.empty()) continue;
    const double legend = kTop + 16 * static_cast<double>(i);
    svg += fmt::format(
        "<line class=\"line{}\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"{}\" "
        "stroke-width=\"2\"{}/><text x=\"{}\" y=\"{}\">{}</text>\n",
        i, right + 14, right + 38, legend, legend, colour, dashes, right + 44, legend + 4,
        escaped(line.name));
  }
  return svg + "</svg>\n";
}

void write_plot(const std::filesystem::path& path, const Plot& plot) {
  AtomicFile file(path);
  file.write(to_svg(plot));
  file.commit();
}

}  // namespace weft::formats
