#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "bench/megrez2_runner.h"
#include "bench/megrez2_setup.h"
#include "bench/report.h"
#include "cli/eval.h"
#include "cli/model_options.h"
#include "formats/tokenizer.h"
#include "text/expert_stream/expert_memory.h"
#include "text/expert_stream/expert_records.h"
#include "text/expert_stream/expert_trace.h"

namespace weft::cli {
namespace {

using bench::cell;
using bench::percent;
using text::ExpertPolicy;
using text::ExpertTrace;

struct Options {
  std::filesystem::path model, text;
  size_t tokens = 1024, context = 512, threads = available_cores();
  std::vector<double> percents = {10, 25, 50, 75, 90};
  std::vector<double> disks = {1.2, 3.5};  // GB/s
  std::string expert_memory;               // while it reads; empty: all, where they find room
  std::string json_file;
};

// What the model's gates say, token after token, from an empty context on every `context` tokens.
struct Recorded {
  ExpertTrace trace;
  double expert_bytes = 0, seconds_per_token = 0;
  size_t tokens = 0, first_layer = 0;
  size_t slots = 0;  // that the experts were read through; 0: all were in memory
  bool looks_ahead = false;
};

// All experts in memory, or as many as --expert-memory or this machine allows; sets recorded.slots.
std::unique_ptr<models::ExpertStore> open_experts(const Options& options,
                                                  const bench::BenchMixture& mixture,
                                                  const models::MemoryPlan& plan,
                                                  const CoreSet& cores, Recorded& recorded) {
  constexpr double kPartOfMemory = 0.6;  // beside other weights, cache and the page cache
  const models::ExpertTable& table = mixture.experts().table();
  text::ExpertBudget budget;
  if (options.expert_memory.empty())
    budget.bytes = static_cast<size_t>(kPartOfMemory * static_cast<double>(text::memory_limit()));
  else
    budget = text::parse_expert_budget(options.expert_memory);
  const size_t slots = text::plan_expert_slots(budget, plan, 0, mixture.checkpoint().name());
  if (slots == plan.num_experts) return bench::load_experts(table, mixture.checkpoint(), cores);
  recorded.slots = slots;
  text::ExpertMemoryOptions streamed;
  streamed.pack = "none";  // nothing is written beside the model
  return text::open_expert_stream(streamed, slots, {}, nullptr)(table, mixture.checkpoint(), cores,
                                                                {});
}

Recorded record(const Options& options, StopToken stop) {
  constexpr size_t kTextLimit = size_t{1} << 30;
  const std::filesystem::path path = model_path(options.model);
  const models::MemoryPlan plan = bench::plan_of_mixture(path);  // refuses what is none
  std::vector<models::Token> tokens =
      formats::load_tokenizer(path)->encode(read_file(options.text, kTextLimit));
  if (tokens.size() < 2)
    fail(ErrorKind::kInvalidInput, "{}: {} tokens, but two at least are needed",
         options.text.string(), tokens.size());
  tokens.resize(std::min(tokens.size(), options.tokens));
  Recorded out;
  out.tokens = tokens.size();
  ThreadPool pool(options.threads);
  bench::BenchMixture mixture(path, 1, std::min(options.context, out.tokens), pool.cores());
  const models::ExpertTable& table = mixture.experts().table();
  const auto experts = open_experts(options, mixture, plan, pool.cores(), out);
  mixture.experts().use(experts.get());
  out.expert_bytes = static_cast<double>(text::RecordTable(table).largest_bytes);
  out.first_layer = table.first_dense;
  out.trace.shape = mixture.experts().shape();
  Progress progress("Decoding", out.tokens, "tokens");
  for (size_t first = 0; first < out.tokens; first += options.context) {
    const size_t count = std::min(options.context, out.tokens - first);
    mixture.read(std::span(tokens).subspan(first, count));
    mixture.experts().record(&out.trace);
    const double seconds = mixture.decode(count, 1, 0, pool.cores(), [&](size_t done, size_t) {
      progress.set(first + done);
      stop.throw_if_stopped();
    });
    mixture.experts().record(nullptr);
    out.seconds_per_token += seconds * static_cast<double>(count) / static_cast<double>(out.tokens);
  }
  out.looks_ahead = mixture.experts().looks_ahead();
  mixture.experts().use(nullptr);
  return out;
}

bench::Table layer_table(const Recorded& recorded) {
  bench::Table table{.name = "use of experts, by layer",
                     .columns = {"layer", "fullest, of the mean", "emptiest", "as the token before",
                                 "as the layer before"},
                     .rows = {}};
  size_t layer = recorded.first_layer;
  for (const text::LayerUse& use : text::layer_uses(recorded.trace))
    table.rows.push_back({cell(static_cast<double>(layer++), 0), cell(use.fullest, 2),
                          cell(use.emptiest, 2), percent(use.as_token_before),
                          use.as_layer_before ? percent(*use.as_layer_before) : bench::no_cell()});
  return table;
}

bench::Table memory_table(const Recorded& recorded, const Options& options,
                          nlohmann::ordered_json& summary) {
  bench::Table table{.name = "a part of the experts in memory: hits by policy",
                     .columns = {"in memory", "MB", "expected", "lru", "lfu", "least-stale",
                                 "optimum", "MB a token"},
                     .rows = {}};
  for (const double disk : options.disks)
    table.columns.push_back(fmt::format("at {:g} GB/s: at most tokens/s", disk));
  const ExpertTrace& trace = recorded.trace;
  const auto tokens = static_cast<double>(recorded.tokens);
  const auto all = static_cast<double>(trace.shape.num_experts());
  const double least_s = recorded.slots == 0 ? recorded.seconds_per_token : 0;  // of a token
  size_t before = 0;
  for (const double percents : options.percents) {
    // Those of two layers have to find room.
    const size_t slots = std::max(static_cast<size_t>(std::lround(percents / 100 * all)),
                                  2 * trace.visits.front().experts.size());
    if (slots == std::exchange(before, slots) || slots >= trace.shape.num_experts()) continue;
    const auto counts = [&](ExpertPolicy policy) {
      return text::replay(trace, slots, policy, recorded.looks_ahead);
    };
    const text::ReplayCounts expected = counts(ExpertPolicy::kExpected);
    const double bytes = static_cast<double>(expected.misses) * recorded.expert_bytes / tokens;
    std::vector<bench::Cell> row = {
        percent(static_cast<double>(slots) / all),
        cell(static_cast<double>(slots) * recorded.expert_bytes * 1e-6, 1),
        percent(expected.hit_rate())};
    for (const ExpertPolicy policy :
         {ExpertPolicy::kLru, ExpertPolicy::kLfu, ExpertPolicy::kLeastStale})
      row.push_back(percent(counts(policy).hit_rate()));
    row.push_back(percent(text::replay_optimum(trace, slots, recorded.looks_ahead).hit_rate()));
    row.push_back(cell(bytes * 1e-6, 2));
    for (const double disk : options.disks)
      row.push_back(cell(1 / std::max(least_s, bytes / (disk * 1e9)), 1));
    table.rows.push_back(std::move(row));
    summary[fmt::format("hit_rate_{:g}", percents)] = expected.hit_rate();
  }
  return table;
}

void eval_experts(const Options& options, StopToken stop) {
  const Recorded recorded = record(options, stop);
  const text::TraceOverlap overlap = text::overlap_of(recorded.trace);
  bench::Report report;
  report.bench = "eval experts";
  report.notes = {
      fmt::format(
          "{}: {} experts of {:.2f} MB; {} tokens of {}. With {} in memory: {:.1f} tokens/s.",
          options.model.empty() ? model_path(options.model).stem().string()
                                : options.model.string(),
          recorded.trace.shape.num_experts(), recorded.expert_bytes * 1e-6, recorded.tokens,
          options.text.filename().string(),
          recorded.slots == 0 ? "all" : std::to_string(recorded.slots),
          1 / recorded.seconds_per_token),
      fmt::format(
          "Of a layer's choices {:.0f} % are those of the token before{}; by chance {:.0f} %.",
          overlap.between_tokens * 100,
          recorded.trace.shape.layers_per_group == 1
              ? ""
              : fmt::format(", {:.0f} % those of the layer before in its group",
                            overlap.within_group * 100),
          overlap.by_chance * 100),
      "MB a token, and the most tokens/s that a disk of that rate allows: with --expert-policy "
      "expected. weft bench megrez2 measures."};
  report.summary["overlap_within_group"] = overlap.within_group;
  report.summary["overlap_between_tokens"] = overlap.between_tokens;
  report.summary["overlap_by_chance"] = overlap.by_chance;
  report.tables = {layer_table(recorded), memory_table(recorded, options, report.summary)};
  bench::print(report);
  if (!options.json_file.empty()) bench::write_json(report, options.json_file);
}

}  // namespace

void add_eval_experts(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "experts",
      "Which experts a mixture chooses, and how many of them a part of its memory would hold");
  command->add_option("text", options->text, "The text that it reads")
      ->required()
      ->type_name("FILE");
  add_model_flag(*command, options->model);
  command->add_option("--tokens", options->tokens, "Of the text, at most")
      ->capture_default_str()
      ->check(CLI::Range(size_t{2}, size_t{1} << 24));
  command->add_option("--context", options->context, "Begin anew after as many tokens")
      ->capture_default_str()
      ->check(CLI::Range(size_t{2}, size_t{1} << 20));
  command->add_option("--memory", options->percents, "Parts of the experts to keep in memory")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str()
      ->type_name("PERCENT")
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--disk", options->disks, "Rates to tell the most tokens/s for")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str()
      ->type_name("GB/S")
      ->check(CLI::Range(1e-3, 1e3));
  command->add_option("--expert-memory", options->expert_memory,
                      "What the experts may take while the text is read, 1.5G or 50%; without: all "
                      "of them, where they find room");
  command->add_option("--threads", options->threads, "Cores to work on")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1024}));
  command->add_option("--json", options->json_file, "Also write everything to this file");
  command->footer("Example: weft eval experts --model reasoner-megrez problems.txt --tokens 2048");
  command->callback([options, stop] { eval_experts(*options, stop); });
}

}  // namespace weft::cli
