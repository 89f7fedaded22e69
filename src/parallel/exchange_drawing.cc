#include "parallel/exchange_drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace weft::parallel {
namespace {

constexpr double kPanel = 180, kRadius = 62, kDot = 10;
constexpr size_t kPanelsInRow = 4, kMaxPanels = 16, kMaxRanksDrawn = 32;
constexpr double kWidth = kPanel * kPanelsInRow + 40, kTop = 44, kBar = 22;

using Point = std::pair<double, double>;

Point place(Point centre, size_t rank, size_t ranks) {
  const double angle =
      2 * std::numbers::pi * static_cast<double>(rank) / static_cast<double>(ranks);
  return {centre.first + kRadius * std::sin(angle), centre.second - kRadius * std::cos(angle)};
}

// The first step's transfers of one piece: where each rank hands it on.
std::string panel(const Exchange& exchange, size_t piece, Point centre) {
  const size_t n = exchange.num_ranks;
  std::string svg = fmt::format(
      "<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">piece {}"
      "</text>\n",
      centre.first, centre.second + kRadius + 26, piece);
  for (const Transfer& t : exchange.steps.front()) {
    if (t.piece != piece) continue;
    auto [x1, y1] = place(centre, t.from, n);
    auto [x2, y2] = place(centre, t.to, n);
    const double length = std::hypot(x2 - x1, y2 - y1);
    if (length == 0) continue;
    const double dx = (x2 - x1) / length, dy = (y2 - y1) / length;
    // Beside the straight line, so that both directions of a link can be seen.
    svg += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" "
        "stroke=\"#0072b2\" marker-end=\"url(#tip)\"/>\n",
        x1 + dx * kDot - dy * 2, y1 + dy * kDot + dx * 2, x2 - dx * (kDot + 3) - dy * 2,
        y2 - dy * (kDot + 3) + dx * 2);
  }
  for (size_t rank = 0; rank < n; ++rank) {
    const auto [x, y] = place(centre, rank, n);
    svg += fmt::format(
        "<circle cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"{2}\" fill=\"#eee\" "
        "stroke=\"#555\"/><text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\" "
        "font-size=\"10\">{4}</text>\n",
        x, y, kDot, y + 3.5, rank);
  }
  return svg;
}

// Attention and what is left of the transfers, for each exchange.
std::string bars(const std::vector<PricedExchange>& priced, double top) {
  double most = 0;
  for (const PricedExchange& e : priced) most = std::max(most, e.cost.total_s);
  const double scale = (kWidth - 290) / (most > 0 ? most : 1);
  std::string svg = fmt::format(
      "<text x=\"20\" y=\"{:.0f}\" font-weight=\"bold\">predicted time: "
      "<tspan fill=\"#009e73\">attention</tspan>, <tspan fill=\"#d55e00\">transfers it does not "
      "hide</tspan></text>\n",
      top);
  double y = top + 12;
  for (const PricedExchange& e : priced) {
    const double compute = e.cost.compute_s * scale,
                 exposed = std::max(0.0, e.cost.exposed_s) * scale;
    svg += fmt::format(
        "<text x=\"20\" y=\"{0:.1f}\">{1}</text>"
        "<rect x=\"120\" y=\"{2:.1f}\" width=\"{3:.1f}\" height=\"14\" fill=\"#009e73\"/>"
        "<rect x=\"{4:.1f}\" y=\"{2:.1f}\" width=\"{5:.1f}\" height=\"14\" fill=\"#d55e00\"/>"
        "<text x=\"{6:.1f}\" y=\"{0:.1f}\">{7}</text>\n",
        y + 12, e.exchange.name, y, compute, 120 + compute, exposed, 126 + compute + exposed,
        e.cost.total_s >= 1 ? fmt::format("{:.2f} s", e.cost.total_s)
                            : fmt::format("{:.2f} ms", e.cost.total_s * 1e3));
    y += kBar;
  }
  return svg;
}

}  // namespace

std::string to_svg(const comm::Topology& topology, const std::vector<PricedExchange>& priced) {
  const Exchange& exchange = best_with_rings(priced).exchange;
  const bool drawn = !exchange.steps.empty() && exchange.num_ranks <= kMaxRanksDrawn;
  const size_t panels = drawn ? std::min(exchange.num_pieces, kMaxPanels) : 0;
  const size_t rows = (panels + kPanelsInRow - 1) / kPanelsInRow;
  const double below = kTop + static_cast<double>(rows) * kPanel + 20;
  const double height = below + 24 + static_cast<double>(priced.size()) * kBar;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<defs><marker id=\"tip\" viewBox=\"0 0 6 6\" refX=\"5\" refY=\"3\" markerWidth=\"6\" "
      "markerHeight=\"6\" orient=\"auto\"><path d=\"M0 0 6 3 0 6z\" "
      "fill=\"#0072b2\"/></marker></defs>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"20\" y=\"24\" font-size=\"15\">{2}: {3}, step 1 of {4}</text>\n",
      kWidth, height, topology.description(), exchange.name, exchange.steps.size());
  for (size_t piece = 0; piece < panels; ++piece)
    svg += panel(exchange, piece,
                 {20 + kPanel * (static_cast<double>(piece % kPanelsInRow) + 0.5),
                  kTop + kPanel * (static_cast<double>(piece / kPanelsInRow) + 0.45)});
  return svg + bars(priced, below) + "</svg>\n";
}

}  // namespace weft::parallel
