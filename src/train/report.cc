#include "train/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "formats/plot.h"

namespace weft::train {
namespace {

using formats::escaped;
using formats::Plot;
using formats::PlotAxis;
using formats::PlotLine;
using nlohmann::ordered_json;

constexpr size_t kMostPoints = 500;  // of a curve: more than the page has pixels for

constexpr const char* kStyle = R"(
:root { --back: #fbfaf8; --panel: #fff; --line: #dcd8d0; --text: #1f2321; --muted: #626a66; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --back: #17191a; --panel: #1f2324; --line: #3a4142; --text: #e6e8e6; --muted: #9aa4a0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 0; }
.facts div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .5rem .9rem; }
dt { color: var(--muted); font-size: .85rem; } dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 1rem; margin-top: 1.2rem; }
svg { display: block; width: 100%; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
svg .paper { fill: none; } svg text { fill: var(--text); } svg .grid { stroke: var(--line); } svg .line0 { stroke: var(--text); }
table { border-collapse: collapse; background: var(--panel); } td, th { border: 1px solid var(--line); padding: .25rem .7rem; text-align: left; }
th { font-weight: 500; color: var(--muted); } td { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .9rem; }
)";

// A number of the record; not a number if there is none (null: the loss of a step was none).
double number(const ordered_json& record, const char* key) {
  const auto it = record.find(key);
  return it != record.end() && it->is_number() ? it->get<double>() : NAN;
}

struct Log {
  std::vector<ordered_json> steps;
  std::map<std::string, PlotLine> evaluations;  // by name; loss over steps
  std::vector<ordered_json> routings;           // of a mixture, on the first held-out data
};

Log read_log(std::string_view text) {
  Log log;
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const bool is_cut = end == text.size();
    const std::string_view words = text.substr(0, end);
    text.remove_prefix(is_cut ? end : end + 1);
    if (words.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const ordered_json record = ordered_json::parse(words, nullptr, false);
    if (record.is_discarded() && is_cut) break;  // the run ended while it was written
    if (!record.is_object() || !std::isfinite(number(record, "step")))
      fail(ErrorKind::kInvalidInput, "log.jsonl:{}: is no JSON object with a \"step\"", line);
    if (const auto layers = record.find("layers"); layers != record.end() && layers->is_array()) {
      const ordered_json of = record.value("routing_of", ordered_json());
      if (log.routings.empty() || log.routings.front().value("routing_of", ordered_json()) == of)
        log.routings.push_back(record);
      continue;
    }
    if (!record.contains("eval_loss")) {
      log.steps.push_back(record);
      continue;
    }
    const auto name = record.find("eval_name");
    const std::string label =
        name != record.end() && name->is_string() ? name->get<std::string>() : "held out";
    PlotLine& evaluation = log.evaluations[label];
    evaluation.name = label;
    evaluation.points.emplace_back(number(record, "step"), number(record, "eval_loss"));
  }
  return log;
}

// `key` over steps; means of neighbours where there are too many points.
PlotLine curve(const Log& log, const char* key, const std::string& name) {
  PlotLine out{.name = name, .points = {}};
  const size_t together = (log.steps.size() + kMostPoints - 1) / kMostPoints;
  for (size_t begin = 0; begin < log.steps.size(); begin += together) {
    double step = 0, sum = 0, count = 0;
    for (size_t i = begin; i < std::min(begin + together, log.steps.size()); ++i) {
      const double value = number(log.steps[i], key);
      if (!std::isfinite(value)) continue;
      step += number(log.steps[i], "step");
      sum += value;
      ++count;
    }
    if (count > 0) out.points.emplace_back(step / count, sum / count);
  }
  return out;
}

// Over steps: the largest of `key` among a mixture's layers, or their mean.
PlotLine routing_line(const Log& log, const char* key, const std::string& name, bool largest) {
  PlotLine out{.name = name, .points = {}};
  for (const ordered_json& record : log.routings) {
    double most = 0, sum = 0, count = 0;
    for (const ordered_json& layer : record["layers"]) {
      const double value = number(layer, key);
      if (!std::isfinite(value)) continue;
      most = std::max(most, value);
      sum += value;
      ++count;
    }
    if (count > 0) out.points.emplace_back(number(record, "step"), largest ? most : sum / count);
  }
  return out;
}

std::string routing_curves(const Log& log) {
  if (log.routings.empty()) return "";
  return formats::to_svg(
             {.title = "Tokens of an expert, over the mean of its layer",
              .x_title = "step",
              .y_title = "",
              .lines = {routing_line(log, "fullest", "fullest of the worst layer", true),
                        routing_line(log, "fullest", "fullest, mean of layers", false),
                        routing_line(log, "emptiest", "emptiest, mean of layers", false)}}) +
         formats::to_svg(
             {.title = "Part of the choices that was chosen before, mean of layers",
              .x_title = "step",
              .y_title = "",
              .lines = {routing_line(log, "as_token_before", "by the token before", false),
                        routing_line(log, "as_layer_before", "by the layer before", false)}});
}

// The last count, layer by layer.
std::string routing_table(const Log& log) {
  if (log.routings.empty()) return "";
  const ordered_json name = log.routings.back().value("routing_of", ordered_json());
  std::string out =
      fmt::format("<h2>Experts at the last evaluation on {}</h2>\n",
                  escaped(name.is_string() ? name.get<std::string>() : "held-out data"));
  out +=
      "<table><tr><th>layer</th><th>fullest, over the "
      "mean</th><th>emptiest</th><th>choices as the token before</th><th>as the layer before in "
      "its group</th></tr>\n";
  for (const ordered_json& layer : log.routings.back()["layers"]) {
    out += fmt::format("<tr><td>{}</td>", number(layer, "layer"));
    for (const char* key : {"fullest", "emptiest", "as_token_before", "as_layer_before"}) {
      const double value = number(layer, key);
      out += std::isfinite(value) ? fmt::format("<td>{:.2f}</td>", value) : "<td></td>";
    }
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

// A long name in as much as finds room beside a curve.
std::string beside_curve(const std::string& name) {
  constexpr size_t kMost = 30, kEnd = 16;
  if (name.size() <= kMost) return name;
  const auto whole_character = [&](size_t at) {  // UTF-8 is not cut within one
    while (at < name.size() && (name[at] & 0xc0) == 0x80) ++at;
    return at;
  };
  return name.substr(0, whole_character(kMost - kEnd - 1)) + "…" +
         name.substr(whole_character(name.size() - kEnd));
}

std::string curves(const Log& log) {
  const auto draw = [&](const std::string& title, const char* key, PlotAxis axis,
                        bool evaluations) {
    Plot plot{.title = title, .x_title = "step", .y_title = "", .lines = {}, .y_axis = axis};
    plot.lines.push_back(curve(log, key, evaluations ? "training" : ""));
    if (evaluations)
      for (const auto& [name, line] : log.evaluations)
        plot.lines.push_back({.name = beside_curve(name), .points = line.points});
    return formats::to_svg(plot);
  };
  return draw("Loss", "loss", PlotAxis::kLogarithmic, true) +
         draw("Learning rate", "lr", PlotAxis::kFromZero, false) +
         draw("Tokens per second", "tokens_per_s", PlotAxis::kFromZero, false) +
         draw("Norm of the gradient, before it is clipped", "grad_norm", PlotAxis::kLogarithmic,
              false) +
         routing_curves(log);
}

std::string amount(double value) {
  if (!std::isfinite(value)) return "-";
  for (const auto& [unit, size] : {std::pair("G", 1e9), std::pair("M", 1e6), std::pair("k", 1e3)})
    if (value >= size) return fmt::format("{:.1f} {}", value / size, unit);
  return fmt::format("{:g}", value);
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  const auto s = static_cast<long>(std::lround(seconds));
  return s >= 3600 ? fmt::format("{} h {:02} min", s / 3600, s / 60 % 60)
                   : fmt::format("{} min {:02} s", s / 60, s % 60);
}

std::string facts(const Log& log) {
  std::string out = "<dl class=\"facts\">";
  const auto add = [&](const std::string& name, const std::string& value) {
    out += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
  };
  const ordered_json last = log.steps.empty() ? ordered_json::object() : log.steps.back();
  const double tokens = number(last, "tokens"), seconds = number(last, "seconds");
  add("steps",
      std::isfinite(number(last, "step")) ? fmt::format("{:.0f}", number(last, "step")) : "-");
  add("tokens", amount(tokens));
  add("time", duration(seconds));
  add("tokens per second", seconds > 0 ? amount(tokens / seconds) : "-");
  add("loss, last", fmt::format("{:.4g}", number(last, "loss")));
  for (const auto& [name, line] : log.evaluations)
    add(name + ", last", fmt::format("{:.4g}", line.points.back().second));
  return out + "</dl>";
}

void add_rows(const ordered_json& object, const std::string& before, std::string& out) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      add_rows(value, before + key + ".", out);
      continue;
    }
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    out += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escaped(before + key), escaped(text));
  }
}

}  // namespace

std::string report_page(const std::string& title, std::string_view log_lines,
                        std::string_view config) {
  const ordered_json settings =
      ordered_json::parse(config, nullptr, false, /*ignore_comments=*/true);
  if (!settings.is_object())
    fail(ErrorKind::kInvalidInput, "{}: its configuration is no JSON object", title);
  const Log log = read_log(log_lines);
  std::string rows;
  add_rows(settings, "", rows);
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{0}</title><style>{1}</style></head>\n<body><h1>{0}</h1>\n{2}\n"
      "<div "
      "class=\"curves\">\n{3}</div>\n{4}<h2>Configuration</h2>\n<table>\n{5}</table>\n</body></"
      "html>\n",
      escaped(title), kStyle, facts(log), curves(log), routing_table(log), rows);
}

void write_report(const std::filesystem::path& folder, std::string_view config) {
  const std::string page = report_page("Training " + folder.filename().string(),
                                       read_file(folder / "log.jsonl"), config);
  AtomicFile file(folder / "report.html");
  file.write(page);
  file.commit();
}

}  // namespace weft::train
