#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "bench/report.h"
#include "cli/eval.h"
#include "cli/kv_methods.h"
#include "cli/model_options.h"
#include "text/kv_tasks.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  KvMethodOptions methods;
  text::KvTaskOptions task;
  std::string json_file;
};

std::string percent(double share) { return fmt::format("{:.0f}", 100 * share); }

bench::Table table_of(text::KvTask task, const std::vector<text::KvTaskResult>& results,
                      const Options& options, bench::Report& report) {
  bench::Table table{.name = fmt::format("{}: right answers", name(task)),
                     .columns = {"cache", "peak MiB", "right", "of", "%", "95 %, Wilson",
                                 "less 16 bit, points", "95 %, bootstrap"},
                     .rows = {}};
  for (const text::KvTaskResult& r : results) {
    const size_t right = r.num_right(), total = r.right.size();
    const text::Interval share = text::wilson(right, total);
    std::vector<bench::Cell> row = {
        bench::cell(r.method),
        bench::cell(static_cast<double>(r.peak_bytes) / (1 << 20), 2),
        bench::cell(static_cast<double>(right), 0),
        bench::cell(static_cast<double>(total), 0),
        bench::cell(100.0 * static_cast<double>(right) / static_cast<double>(total), 1),
        bench::cell(fmt::format("{} to {}", percent(share.low), percent(share.high)))};
    if (&r == results.data()) {
      row.push_back(bench::no_cell());
      row.push_back(bench::no_cell());
    } else {
      std::vector<double> differences;
      double sum = 0;
      for (size_t i = 0; i < total; ++i) {
        differences.push_back(static_cast<double>(r.right[i]) - results[0].right[i]);
        sum += differences.back();
      }
      const text::Interval d =
          text::bootstrap_mean(differences, options.task.questions, options.task.seed);
      row.push_back(bench::cell(100 * sum / static_cast<double>(total), 1));
      row.push_back(bench::cell(fmt::format("{:+.1f} to {:+.1f}", 100 * d.low, 100 * d.high)));
    }
    table.rows.push_back(std::move(row));
    report.summary[fmt::format("{} {}", name(task), r.method)] =
        static_cast<double>(right) / static_cast<double>(total);
  }
  return table;
}

void eval_kv_tasks(const Options& options, StopToken stop) {
  const LoadedModel loaded = load_model(options.model);
  const models::LanguageModel& model = loaded.model.model();
  const std::vector<text::ReplayMethod> methods = kv_methods(options.methods, options.model, model);
  bench::Report report;
  report.bench = "eval kv-tasks";
  report.notes = {
      fmt::format("{}: {} contexts of about {} tokens, {} questions each, greedy.",
                  loaded.model.name(), options.task.num_contexts, options.task.context_tokens,
                  options.task.questions),
      "All at the peak of true bytes that is shown. Right answers less those of 16 bit, paired: the "
      "bootstrap draws whole contexts."};
  for (const text::KvTask task : {text::KvTask::kNeedle, text::KvTask::kSums}) {
    std::vector<text::KvTaskResult> results;
    {
      Progress progress(name(task), 0, "texts");
      results = text::run_kv_task(model, loaded.model.tokenizer(), task, methods, options.task,
                                  loaded.pool->cores(), stop, progress.callback());
    }
    report.tables.push_back(table_of(task, results, options, report));
  }
  bench::print(report);
  if (!options.json_file.empty()) bench::write_json(report, options.json_file);
}

}  // namespace

void add_eval_kv_tasks(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "kv-tasks",
      "How often answers stay right when keys and values are kept in few bits: finding a code in a "
      "text, sums in steps");
  command->add_option("--context-tokens", options->task.context_tokens, "Of a text, about")
      ->capture_default_str()
      ->check(CLI::Range(size_t{256}, size_t{1} << 20));
  command->add_option("--contexts", options->task.num_contexts, "Texts of each task")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{10000}));
  command->add_option("--questions", options->task.questions, "About each text")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{8}));
  command->add_option("--seed", options->task.seed, "Other texts")->capture_default_str();
  add_kv_method_options(*command, options->methods);
  command->add_option("--json", options->json_file, "Also write everything to this file");
  add_model_options(*command, options->model, stop);
  command->footer("Example: weft eval kv-tasks --bits 4 --contexts 12");
  command->callback([options, stop] { eval_kv_tasks(*options, stop); });
}

}  // namespace weft::cli
