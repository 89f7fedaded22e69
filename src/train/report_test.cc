#include "train/report.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig =
    "{\n  // where\n  \"out\": \"runs/a<b\", \"lr\": 0.001, \"model\": {\"hidden_size\": 64}}";

std::string log_of(size_t steps) {
  std::string out;
  for (size_t step = 1; step <= steps; ++step) {
    out += fmt::format(
        R"({{"step": {}, "tokens": {}, "seconds": {}, "loss": {}, "lr": 0.001, "grad_norm": 0.5, "tokens_per_s": 50000}})"
        "\n",
        step, step * 1000, static_cast<double>(step) / 50,
        5 / std::sqrt(static_cast<double>(step)));
    if (step % 100 == 0)
      out += fmt::format("{{\"step\": {}, \"eval_loss\": 0.5, \"eval_name\": \"medium\"}}\n", step);
  }
  return out;
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(train_report, shows_what_the_run_came_to) {
  const std::string page = report_page("Training a & b", log_of(400), kConfig);
  EXPECT_EQ(count(page, "<svg"), 4u);
  EXPECT_EQ(count(page, "</svg>"), 4u);
  for (const char* text : {"Training a &amp; b", "<dd>400</dd>", "400.0 k", "50.0 k",
                           "<dt>medium, last</dt><dd>0.5</dd>",
                           "<th>model.hidden_size</th><td>64</td>", "runs/a&lt;b", "0 min 08 s"})
    EXPECT_EQ(count(page, text) > 0, true) << text;
  EXPECT_EQ(count(page, "http://") + count(page, "https://"),
            count(page, "http://www.w3.org/2000/svg"))
      << "a page that needs no other file";
}

TEST(train_report, shows_what_a_mixture_s_routers_chose) {
  std::string log = log_of(200);
  for (const char* name : {"medium", "hard"})
    for (const int step : {100, 200})
      log += fmt::format(
          R"({{"step": {}, "routing_of": "{}", "layers": [{{"layer": 1, "fullest": 1.{}, "emptiest": 0.5, "as_token_before": 0.4}}, )"
          R"({{"layer": 2, "fullest": 1.25, "emptiest": 0.75, "as_layer_before": 0.31, "as_token_before": 0.6}}, {{"layer": null}}, 3]}})"
          "\n",
          step, name, step == 200 && name == std::string("medium") ? 7 : 9);
  const std::string page = report_page("mixture", log, kConfig);
  EXPECT_EQ(count(page, "<svg"), 6u);
  EXPECT_EQ(count(page, "last evaluation on medium<"), 1u) << "of the first held-out data alone";
  EXPECT_EQ(count(page, "<tr><td>1</td><td>1.70</td><td>0.50</td><td>0.40</td><td></td></tr>"), 1u);
  EXPECT_EQ(count(page, "<tr><td>2</td><td>1.25</td><td>0.75</td><td>0.60</td><td>0.31</td></tr>"),
            1u);
}

TEST(train_report, a_long_run_makes_no_long_page) {
  const std::string page = report_page("long", log_of(50000), kConfig);
  EXPECT_LT(page.size(), size_t{100000});
}

TEST(train_report, a_run_without_steps_or_with_a_loss_that_is_none) {
  for (const char* log :
       {"", "\n", R"({"step": 1, "loss": null, "lr": 0.1})", R"({"step": 3, "eval_loss": null})"}) {
    const std::string page = report_page("r", log, "{}");
    EXPECT_EQ(count(page, "<svg"), 4u) << log;
    EXPECT_EQ(count(page, "points=\"nan") + count(page, "inf,"), 0u) << page;
  }
}

TEST(train_report, a_last_line_that_was_cut_is_left_out) {
  const std::string log = log_of(10);
  EXPECT_EQ(report_page("r", log + R"({"step": 11, "lo)", "{}"), report_page("r", log, "{}"));
}

TEST(train_report, bad_input_is_named) {
  const auto complaint = [](const std::string& log, const std::string& config) -> std::string {
    try {
      report_page("run", log, config);
      return "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
      return error.what();
    }
  };
  EXPECT_NE(complaint(log_of(2) + "x\n" + log_of(1), "{}").find("log.jsonl:3"), std::string::npos);
  EXPECT_NE(complaint("{\"loss\": 1}\n", "{}").find("log.jsonl:1"), std::string::npos);
  EXPECT_NE(complaint("[1]\n", "{}").find("log.jsonl:1"), std::string::npos);
  EXPECT_NE(complaint("", "[").find("run: its configuration"), std::string::npos);
}

TEST(train_report, is_written_beside_the_log) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("weft_report_{}", getpid());
  fs::create_directories(folder);
  EXPECT_THROW(write_report(folder, kConfig), Error);
  std::ofstream(folder / "log.jsonl") << log_of(3);
  write_report(folder, kConfig);
  EXPECT_EQ(read_file(folder / "report.html"),
            report_page("Training " + folder.filename().string(), log_of(3), kConfig));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace weft::train
