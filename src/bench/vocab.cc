// `weft bench vocab`: what a tailored vocabulary saves in time and memory, and what it costs in
// answers.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "bench/machine.h"
#include "bench/vocab_tables.h"
#include "bench/vocab_tasks.h"

namespace weft::bench {
namespace {

text::TextModel load(const std::filesystem::path& path, const CoreSet& cores) {
  Progress progress("Loading", 0, "bytes");
  text::TextModelOptions how;
  how.context = 2048;
  how.available_bytes = read_machine().available_bytes;
  how.head = models::HeadLoading::kWhenNeeded;
  return text::TextModel::load(path, how, cores, progress.callback());
}

// What to measure.
class Parts {
 public:
  // kInvalidInput: a name that is none.
  explicit Parts(const std::vector<std::string>& only) {
    const std::vector<std::string> all_tasks = vocab_task_names();
    const std::vector<std::string> all = {"memory", "tasks",  "head",
                                          "decode", "drafts", "first-token"};
    for (const std::string& name : only)
      if (!contains(all, name) && !contains(all_tasks, name))
        fail(ErrorKind::kInvalidInput,
             "'{}' is no part of this bench. Parts are {}; tasks can be named alone: {}.", name,
             fmt::join(all, ", "), fmt::join(all_tasks, ", "));
    parts_ = only.empty() ? all : only;
    for (const std::string& name : all_tasks)
      if (has("tasks") || has(name)) tasks_.push_back(name);
  }
  bool has(const std::string& name) const { return contains(parts_, name); }
  const std::vector<std::string>& tasks() const { return tasks_; }

 private:
  static bool contains(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  std::vector<std::string> parts_, tasks_;
};

// The worst over models and tasks, so that one good row hides nothing.
void keep_worst(nlohmann::ordered_json& summary, const char* name,
                const nlohmann::ordered_json& values, bool largest) {
  for (const auto& [key, value] : values.items()) {
    if (!value.is_number()) continue;
    auto& kept = summary[name];
    if (kept.is_null() || (value.get<double>() > kept.get<double>()) == largest) kept = value;
  }
}

}  // namespace

Report run_vocab(const BenchOptions& options) {
  const Parts parts(options.vocab.only);
  Report report;
  report.bench = "vocab";
  report.notes.push_back(
      "Answers from a part of the vocabulary (VocabTailor) against the whole head, same process, "
      "taking "
      "turns; medians.\nThe summary's plain names are the worst over models or sizes, and the mean "
      "over "
      "tasks.");
  const size_t most_threads = *std::max_element(options.threads.begin(), options.threads.end());
  ThreadPool pool(most_threads);
  nlohmann::ordered_json bounds, screened_bounds, overheads;
  for (size_t m = 0; m < options.models.size(); ++m) {
    if (parts.has("memory")) bench_vocab_memory(options, options.models[m], pool.cores(), report);
    const text::TextModel model = load(options.models[m], pool.cores());
    if (m == 0 && !parts.tasks().empty())
      bench_vocab_tasks(options, parts.tasks(), model, pool.cores(), report);
    if (parts.has("head")) bench_head_time(options, model, pool, report);
    if (parts.has("decode")) {
      bench_decode(options, model, text::VocabMode::kHybrid, pool.cores(), report);
      bounds[std::to_string(m)] = report.summary["bound_fraction"];
      bench_decode(options, model, text::VocabMode::kScreen, pool.cores(), report);
      screened_bounds[std::to_string(m)] = report.summary["bound_fraction_screen"];
    }
    if (parts.has("drafts"))
      bench_decode(options, model, text::VocabMode::kDraft, pool.cores(), report);
    if (parts.has("first-token")) {
      bench_first_token(options, model, pool.cores(), report);
      overheads[std::to_string(m)] = report.summary["ttft_overhead"];
    }
  }
  report.summary["bound_fraction"] = nullptr;
  report.summary["bound_fraction_screen"] = nullptr;
  report.summary["ttft_overhead"] = nullptr;
  keep_worst(report.summary, "bound_fraction", bounds, false);
  keep_worst(report.summary, "bound_fraction_screen", screened_bounds, false);
  keep_worst(report.summary, "ttft_overhead", overheads, true);
  return report;
}

}  // namespace weft::bench
