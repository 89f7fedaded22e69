// What a bench leaves: tables for people, the same and a flat summary as JSON for programs.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace weft::bench {

// Repeated measurements of one thing. The median is what we report; the range says how far to trust
// it.
struct Spread {
  double median = 0, least = 0, most = 0;
  size_t count = 0;
};
Spread spread_of(std::vector<double> values);  // at least one value

// A table's cell: what is printed, and the number or text behind it.
struct Cell {
  std::string text;
  nlohmann::ordered_json value;
};
Cell cell(const std::string& text);
Cell cell(double value, int digits);
Cell cell(const Spread& spread, int digits);  // "81.3 ±2%": half the range, of the median
Cell percent(double fraction);
Cell no_cell();  // "-", null

struct Table {
  std::string name;
  std::vector<std::string> columns;
  std::vector<std::vector<Cell>> rows;
};

struct Report {
  std::string bench;
  std::vector<std::string> notes;  // what was measured and how; printed above the tables
  std::vector<Table> tables;
  nlohmann::ordered_json summary = nlohmann::ordered_json::object();  // name: number or null
};

void print(const Report& report);

// Writes `report` with machine, build and time. The file appears whole or not at all. kIo.
void write_json(const Report& report, const std::filesystem::path& path);

}  // namespace weft::bench
