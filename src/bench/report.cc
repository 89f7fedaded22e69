#include "bench/report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "base/file.h"
#include "bench/machine.h"
#include "kernels/isa.h"

namespace weft::bench {
namespace {

using nlohmann::ordered_json;

// Columns on a terminal, not bytes: "±" is one.
size_t width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; }));
}

std::vector<size_t> column_widths(const Table& table) {
  std::vector<size_t> widths;
  for (const std::string& column : table.columns) widths.push_back(width(column));
  for (const auto& row : table.rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i].text));
  return widths;
}

// The first column names its row and stands left; numbers stand right.
void print_row(const std::vector<std::string>& texts, const std::vector<size_t>& widths) {
  std::string line;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string padding(widths[i] - width(texts[i]), ' ');
    line += i == 0 ? texts[i] + padding : "  " + padding + texts[i];
  }
  fmt::print("{}\n", line);
}

ordered_json to_json(const Table& table) {
  ordered_json rows = ordered_json::array();
  for (const auto& row : table.rows) {
    ordered_json object = ordered_json::object();
    for (size_t i = 0; i < row.size(); ++i) object[table.columns[i]] = row[i].value;
    rows.push_back(std::move(object));
  }
  return {{"name", table.name}, {"rows", std::move(rows)}};
}

ordered_json build_facts() {
  return {{"version", WEFT_VERSION},
          {"compiler", WEFT_COMPILER},
          {"type", WEFT_BUILD_TYPE},
          {"isa", kernels::name(kernels::active_isa())}};
}

}  // namespace

Spread spread_of(std::vector<double> values) {
  WEFT_ASSERT(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const double median = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  return {.median = median, .least = values.front(), .most = values.back(), .count = n};
}

Cell cell(const std::string& text) { return {text, text}; }

Cell cell(double value, int digits) { return {fmt::format("{:.{}f}", value, digits), value}; }

Cell cell(const Spread& spread, int digits) {
  std::string text = fmt::format("{:.{}f}", spread.median, digits);
  if (spread.count > 1 && spread.median > 0)
    text += fmt::format(" ±{:.0f}%", 50 * (spread.most - spread.least) / spread.median);
  return {std::move(text),
          {{"median", spread.median},
           {"least", spread.least},
           {"most", spread.most},
           {"count", spread.count}}};
}

Cell percent(double fraction) { return {fmt::format("{:.0f}%", 100 * fraction), fraction}; }

Cell no_cell() { return {"-", nullptr}; }

void print(const Report& report) {
  for (const std::string& note : report.notes) fmt::print("{}\n", note);
  for (const Table& table : report.tables) {
    fmt::print("\n{}\n", table.name);
    const std::vector<size_t> widths = column_widths(table);
    print_row(table.columns, widths);
    for (const auto& row : table.rows) {
      std::vector<std::string> texts;
      for (const Cell& c : row) texts.push_back(c.text);
      print_row(texts, widths);
    }
  }
}

void write_json(const Report& report, const std::filesystem::path& path) {
  ordered_json tables = ordered_json::array();
  for (const Table& table : report.tables) tables.push_back(to_json(table));
  const ordered_json document = {
      {"bench", report.bench},
      {"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
      {"machine", to_json(read_machine())},
      {"build", build_facts()},
      {"notes", report.notes},
      {"summary", report.summary},
      {"tables", std::move(tables)}};
  AtomicFile file(path);
  file.write(document.dump(2) + "\n");
  file.commit();
}

}  // namespace weft::bench
