// `weft bench vocab`: what a tailored vocabulary saves in time and memory, and what it costs in
// answers.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/progress.h"
#include "bench/machine.h"
#include "bench/vocab_tables.h"

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
  Report report;
  report.bench = "vocab";
  report.notes.push_back(
      "Answers from a part of the vocabulary (VocabTailor) against the whole head, same process, taking "
      "turns; medians.\nThe summary's plain names are the worst over models, sizes or tasks.");
  const size_t most_threads = *std::max_element(options.threads.begin(), options.threads.end());
  ThreadPool pool(most_threads);
  nlohmann::ordered_json bounds, overheads;
  for (size_t m = 0; m < options.models.size(); ++m) {
    bench_vocab_memory(options, options.models[m], pool.cores(), report);
    const text::TextModel model = load(options.models[m], pool.cores());
    if (m == 0) bench_vocab_tasks(options, model, pool.cores(), report);
    bench_head_time(options, model, pool, report);
    bench_decode(options, model, pool.cores(), report);
    bounds[std::to_string(m)] = report.summary["bound_fraction"];
    bench_first_token(options, model, pool.cores(), report);
    overheads[std::to_string(m)] = report.summary["ttft_overhead"];
  }
  report.summary["bound_fraction"] = nullptr;
  report.summary["ttft_overhead"] = nullptr;
  keep_worst(report.summary, "bound_fraction", bounds, false);
  keep_worst(report.summary, "ttft_overhead", overheads, true);
  return report;
}

}  // namespace weft::bench
