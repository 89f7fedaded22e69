#include "bench/bench.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <set>

#include "base/error.h"
#include "base/file.h"

namespace weft::bench {
namespace {

TEST(spread, median_and_range) {
  EXPECT_EQ(spread_of({3}).median, 3);
  EXPECT_EQ(spread_of({4, 1}).median, 2.5);
  const Spread odd = spread_of({5, 1, 100});
  EXPECT_EQ(odd.median, 5);
  EXPECT_EQ(odd.least, 1);
  EXPECT_EQ(odd.most, 100);
  EXPECT_EQ(odd.count, 3u);
}

TEST(alternate, warms_up_once_and_takes_turns) {
  std::string order;
  const std::function<double()> contestants[] = {[&] { return order += 'a', 1.0; },
                                                 [&] { return order += 'b', 2.0; }};
  const auto values = alternate(3, contestants, {});
  EXPECT_EQ(order,
            "ab"
            "ba"
            "ab"
            "ba");
  EXPECT_EQ(values[0], std::vector<double>(3, 1.0));
  EXPECT_EQ(values[1], std::vector<double>(3, 2.0));
}

TEST(alternate, stops_when_asked) {
  const std::atomic<bool> stop{true};
  const std::function<double()> contestants[] = {[] { return 1.0; }};
  EXPECT_THROW(alternate(3, contestants, StopToken(&stop)), Error);
}

TEST(report, prints_columns_that_line_up) {
  Report report;
  report.notes = {"how"};
  report.tables.push_back({.name = "speeds",
                           .columns = {"what", "tok/s"},
                           .rows = {{cell("ours"), cell(spread_of({98, 100, 102}), 1)},
                                    {cell("theirs, long"), cell(7.25, 1)},
                                    {cell("none"), no_cell()}}});
  testing::internal::CaptureStdout();
  print(report);
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "how\n\nspeeds\n"
            "what              tok/s\n"
            "ours          100.0 ±2%\n"
            "theirs, long        7.2\n"
            "none                  -\n");
}

TEST(report, json_holds_everything) {
  Report report;
  report.bench = "x";
  report.tables.push_back(
      {.name = "t", .columns = {"a", "b"}, .rows = {{cell("r"), percent(0.5)}}});
  report.summary["ratio"] = 1.5;
  const std::string path = testing::TempDir() + "/weft_report_test.json";
  write_json(report, path);
  const auto json = nlohmann::json::parse(read_file(path));
  std::remove(path.c_str());
  EXPECT_EQ(json.at("bench"), "x");
  EXPECT_EQ(json.at("summary").at("ratio"), 1.5);
  EXPECT_EQ(json.at("tables").at(0).at("rows").at(0).at("b"), 0.5);
  EXPECT_TRUE(json.at("machine").contains("cpu"));
  EXPECT_TRUE(json.at("build").contains("compiler"));
}

TEST(benches, have_names_of_their_own_and_examples) {
  std::set<std::string> names;
  for (const Bench& bench : benches()) {
    EXPECT_TRUE(names.insert(bench.name).second) << bench.name;
    std::string example = bench.example;
    if (bench.on_ranks) {
      EXPECT_TRUE(example.starts_with("mpirun -n ")) << example;
      example = example.substr(std::min(example.size(), example.find("weft ")));
    }
    EXPECT_TRUE(example.starts_with(std::string("weft bench ") + bench.name)) << example;
  }
}

}  // namespace
}  // namespace weft::bench
