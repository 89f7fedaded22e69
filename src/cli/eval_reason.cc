#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/report.h"
#include "cli/eval.h"
#include "cli/model_options.h"
#include "formats/plot.h"
#include "text/kv_tasks.h"
#include "text/reason_eval.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  std::vector<std::string> models = {"reasoner-large"};
  std::vector<std::string> levels = {"easy", "medium", "hard"};
  std::string split = "test";
  text::ReasonEvalOptions eval;
  std::string json_file;
  std::filesystem::path svg;
};

bench::Table new_table() {
  return {.name = "right answers",
          .columns = {"model", "level", "steps", "right", "of", "%", "95 %, Wilson", "unfinished",
                      "mean tokens", "P50", "P99", "most", "tokens/s"},
          .rows = {}};
}

std::vector<bench::Cell> row_of(const std::string& model, const std::string& level,
                                const tasks::ReasonOptions& task, const text::ReasonScore& score) {
  const size_t right = score.num_right(), total = score.answers.size();
  const text::Interval share = text::wilson(right, total);
  const auto count = [](size_t n) { return bench::cell(static_cast<double>(n), 0); };
  const auto of_all = [&](size_t n) { return static_cast<double>(n) / static_cast<double>(total); };
  return {bench::cell(model),
          bench::cell(level),
          bench::cell(fmt::format("{}-{}", task.min_steps, task.max_steps)),
          count(right),
          count(total),
          bench::cell(100 * of_all(right), 1),
          bench::cell(fmt::format("{:.1f} to {:.1f}", 100 * share.low, 100 * share.high)),
          count(score.num_unfinished()),
          bench::cell(of_all(score.num_tokens()), 1),
          count(score.token_quantile(0.5)),
          count(score.token_quantile(0.99)),
          count(score.token_quantile(1)),
          bench::cell(score.tokens_per_second(), 0)};
}

// Per cent right over the number of steps, all levels together, in classes that widen.
formats::PlotLine accuracy_line(const std::string& model,
                                const std::vector<text::ReasonScore>& scores) {
  constexpr std::array<size_t, 14> kBounds = {1, 3, 5, 7, 9, 11, 13, 17, 25, 33, 41, 61, 81, 104};
  formats::PlotLine line{.name = model, .points = {}};
  for (size_t b = 0; b + 1 < kBounds.size(); ++b) {
    size_t right = 0, total = 0, steps = 0;
    for (const text::ReasonScore& score : scores)
      for (const text::ReasonAnswer& answer : score.answers) {
        if (answer.steps < kBounds[b] || answer.steps >= kBounds[b + 1]) continue;
        ++total;
        steps += answer.steps;
        if (answer.verdict.right) ++right;
      }
    if (total == 0) continue;
    const auto n = static_cast<double>(total);
    line.points.emplace_back(static_cast<double>(steps) / n, 100 * static_cast<double>(right) / n);
  }
  return line;
}

void eval_reason(Options& options, StopToken stop) {
  options.eval.split = tasks::reason_split(options.split);
  std::vector<tasks::ReasonOptions> levels;
  for (const std::string& level : options.levels) levels.push_back(tasks::reason_options(level));
  std::vector<std::filesystem::path> paths;
  for (const std::string& model : options.models) paths.push_back(model_path(model));
  bench::Report report;
  report.bench = "eval reason";
  report.notes = {fmt::format(
      "{} {} problems of each level, seed {}, {}. Right: the answer at the end is; unfinished: "
      "there is none at the end.",
      options.eval.num_problems, options.split, options.eval.seed,
      options.eval.temperature == 0 ? std::string("greedy")
                                    : fmt::format("temperature {}", options.eval.temperature))};
  bench::Table table = new_table();
  formats::Plot plot{.title = "Right answers by number of steps",
                     .x_title = "steps",
                     .y_title = "% right",
                     .lines = {}};
  for (size_t i = 0; i < paths.size(); ++i) {
    options.model.model = paths[i];
    const LoadedModel loaded = load_model(options.model);
    const std::string& model = options.models[i];  // as asked: a run's file is always model.gguf
    std::vector<text::ReasonScore> scores;
    for (size_t l = 0; l < levels.size(); ++l) {
      const std::string& level = options.levels[l];
      options.eval.task = levels[l];
      Progress progress(fmt::format("{}, {}", model, level), options.eval.num_problems, "problems");
      scores.push_back(text::eval_reason(loaded.model, options.eval, loaded.pool->cores(), stop,
                                         progress.callback()));
      table.rows.push_back(row_of(model, level, options.eval.task, scores.back()));
      report.summary[fmt::format("{} {}", model, level)] =
          static_cast<double>(scores.back().num_right()) /
          static_cast<double>(options.eval.num_problems);
    }
    plot.lines.push_back(accuracy_line(model, scores));
  }
  report.tables = {std::move(table)};
  bench::print(report);
  if (!options.json_file.empty()) bench::write_json(report, options.json_file);
  if (!options.svg.empty()) formats::write_plot(options.svg, plot);
}

}  // namespace

void add_eval_reason(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "reason", "How often models solve generated arithmetic in many written steps, side by side");
  command->add_option("models", options->models, "Files, folders, or models that come with weft")
      ->capture_default_str()
      ->type_name("MODEL");
  command
      ->add_option("--level", options->levels,
                   "easy, medium, hard, extreme, linked, mixed; settings may "
                   "follow, as in weft task reason --help: easy:steps=1-2:operators=+-")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--problems", options->eval.num_problems, "Of each level")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1000000}));
  command->add_option("--seed", options->eval.seed, "Other problems")->capture_default_str();
  command->add_option("--split", options->split, "test: never trained on; train")
      ->capture_default_str();
  command->add_option("--temperature", options->eval.temperature, "0: the likeliest token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--batch", options->eval.batch, "Problems at a time")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{4096}));
  command->add_option("--json", options->json_file, "Also write everything to this file");
  command->add_option("--svg", options->svg,
                      "Draw accuracy over the number of steps into this file");
  add_engine_options(*command, options->model, stop);
  command->footer("Example: weft eval reason reasoner-small reasoner-large --level easy,medium");
  command->callback([options, stop] { eval_reason(*options, stop); });
}

}  // namespace weft::cli
