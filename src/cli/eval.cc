#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "bench/report.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "kernels/kv_transform.h"
#include "text/kv_calibration.h"
#include "text/kv_replay.h"

namespace weft::cli {
namespace {

using text::ReplayMethod;
using text::ReplayWidths;
using Storage = ReplayMethod::Storage;
using Schedule = ReplayMethod::Schedule;

struct Options {
  ModelOptions model;
  std::filesystem::path text, sidecar;
  size_t tokens = 4096;
  size_t bits = 4;
  std::vector<std::string> only;
  std::string json_file;
  text::ReplayOptions replay;
};

// Every way of storing that ends at about `bits` a value.
std::vector<ReplayMethod> methods(size_t bits, size_t num_layers, bool can_rotate) {
  std::vector<ReplayMethod> all;
  const auto add = [&](const std::string& name, Storage storage, Schedule schedule, ReplayWidths w,
                       bool hadamard = false) {
    if (hadamard && !can_rotate) return;
    all.push_back(text::uniform_method(name, storage, schedule, w, num_layers));
    all.back().hadamard = hadamard;
  };
  const auto f = static_cast<uint8_t>(bits);
  const ReplayWidths narrow{f, f};
  if (bits != 8) {
    add("direct 8", Storage::kPages, Schedule::kDirect, {8, 8});
    add("q8_0", Storage::kBlocks, Schedule::kDirect, {8, 8});
  }
  add(fmt::format("direct {}", bits), Storage::kPages, Schedule::kDirect, narrow);
  add(fmt::format("direct {} hadamard", bits), Storage::kPages, Schedule::kDirect, narrow, true);
  add(fmt::format("kivi {}", bits), Storage::kKivi, Schedule::kDirect, narrow);
  if (bits != 2) {
    const std::string block = fmt::format("q{}_0", bits);
    add(block, Storage::kBlocks, Schedule::kDirect, narrow);
    add(block + " hadamard", Storage::kBlocks, Schedule::kDirect, narrow, true);
  }
  add(fmt::format("two-tier {}", bits), Storage::kPages, Schedule::kTwoTier, narrow);
  add(fmt::format("progressive {}", bits), Storage::kPages, Schedule::kProgressive, narrow);
  add(fmt::format("progressive {} hadamard", bits), Storage::kPages, Schedule::kProgressive, narrow,
      true);
  if (bits < 8) {
    const auto wider = static_cast<uint8_t>(2 * bits);
    add(fmt::format("direct k{} v{}", wider, bits), Storage::kPages, Schedule::kDirect, {wider, f});
    add(fmt::format("direct k{} v{}", bits, wider), Storage::kPages, Schedule::kDirect, {f, wider});
    add(fmt::format("progressive k{} v{}", wider, bits), Storage::kPages, Schedule::kProgressive,
        {wider, f});
  }
  return all;
}

void add_allocated(const Options& options, const models::LanguageModelConfig& config,
                   std::vector<ReplayMethod>& all) {
  const auto checkpoint = formats::open_checkpoint(model_path(options.model.model));
  const text::KvCalibration c = text::load_kv_calibration(options.sidecar, *checkpoint);
  const auto widths = text::allocate_kv(c.layers, config.num_layers * 2 * options.bits, 2);
  for (const auto& [name, schedule] :
       {std::pair{"direct", Schedule::kDirect}, {"progressive", Schedule::kProgressive}}) {
    all.push_back({.name = fmt::format("{} {} allocated", name, options.bits),
                   .storage = Storage::kPages,
                   .schedule = schedule,
                   .widths = widths});
  }
}

std::string mib(double bytes) { return fmt::format("{:.2f}", bytes / (1 << 20)); }

bench::Report report(const std::vector<text::ReplayResult>& results, const Options& options,
                     const std::string& model, double exact_bytes) {
  bench::Report out;
  out.bench = "eval kv";
  out.notes = {
      fmt::format("{}: {} tokens of {}, teacher-forced, the cache as after the same number of "
                  "generated tokens.",
                  model, options.tokens, options.text.filename().string()),
      fmt::format("16 bit: {} MiB at the end. MiB: codes, metadata, sink and exact tokens.",
                  mib(exact_bytes)),
      "kivi, q8_0, q4_0 and hadamard: rounded as those formats round, held in 16 bit here."};
  bench::Table total{.name = "the whole text",
                     .columns = {"cache", "peak MiB", "mean MiB", "perplexity", "of 16 bit",
                                 "mean KL", "+-", "99.9% KL", "same top-1"},
                     .rows = {}};
  bench::Table buckets{.name = "mean KL by position", .columns = {"cache"}, .rows = {}};
  for (size_t b = 0; b < results[0].buckets.size(); ++b)
    buckets.columns.push_back(fmt::format("{}-", b * options.replay.bucket_tokens));
  const text::ReplayBucket exact = results[0].total();
  total.rows.push_back({bench::cell("16 bit"), bench::cell(exact_bytes / (1 << 20), 2),
                        bench::no_cell(), bench::cell(exact.exact_perplexity(), 4),
                        bench::no_cell(), bench::no_cell(), bench::no_cell(), bench::no_cell(),
                        bench::no_cell()});
  double direct = 0, progressive = 0;
  for (const text::ReplayResult& r : results) {
    const text::ReplayBucket all = r.total();
    const auto n = static_cast<double>(all.tokens);
    total.rows.push_back(
        {bench::cell(r.method.name), bench::cell(static_cast<double>(r.peak_bytes) / (1 << 20), 2),
         bench::cell(r.mean_bytes / (1 << 20), 2), bench::cell(all.perplexity(), 4),
         bench::cell(all.perplexity() / all.exact_perplexity(), 5), bench::cell(all.mean_kl(), 6),
         bench::cell(all.kl_standard_error(), 6), bench::cell(all.kl_quantile(0.999), 4),
         bench::percent(static_cast<double>(all.agree) / n)});
    std::vector<bench::Cell> row = {bench::cell(r.method.name)};
    for (const text::ReplayBucket& b : r.buckets) row.push_back(bench::cell(b.mean_kl(), 6));
    buckets.rows.push_back(std::move(row));
    out.summary["kl " + r.method.name] = all.mean_kl();
    if (r.method.name == fmt::format("direct {}", options.bits)) direct = all.mean_kl();
    if (r.method.name == fmt::format("progressive {}", options.bits)) progressive = all.mean_kl();
  }
  if (direct > 0) out.summary["kl_progressive_over_direct"] = progressive / direct;
  out.tables = {std::move(total), std::move(buckets)};
  return out;
}

void eval_kv(Options& options, StopToken stop) {
  constexpr size_t kTextLimit = size_t{1} << 30;
  const std::string text = read_file(options.text, kTextLimit);
  const LoadedModel loaded = load_model(options.model);
  const models::LanguageModel& model = loaded.model.model();
  std::vector<models::Token> tokens =
      loaded.model.tokenizer().encode(text, {.add_special = true, .parse_special = false});
  if (tokens.size() <= options.tokens)
    fail(ErrorKind::kInvalidInput,
         "{}: {} tokens, but --tokens {} needs one more. Take a longer "
         "text or fewer tokens.",
         options.text.string(), tokens.size(), options.tokens);
  tokens.resize(options.tokens + 1);
  const kernels::KvShape shape = model.kv_shape();
  const size_t layers = model.config().num_layers;
  std::vector<ReplayMethod> all = methods(options.bits, layers, kernels::has_hadamard(shape.head_dim));
  if (!options.sidecar.empty()) add_allocated(options, model.config(), all);
  if (!options.only.empty()) {
    for (const std::string& name : options.only)
      if (std::none_of(all.begin(), all.end(), [&](const auto& m) { return m.name == name; })) {
        std::string names;
        for (const ReplayMethod& m : all) names += (names.empty() ? "" : ", ") + m.name;
        fail(ErrorKind::kInvalidInput, "--only: no method '{}'; there are: {}", name, names);
      }
    std::erase_if(all, [&](const ReplayMethod& m) {
      return std::find(options.only.begin(), options.only.end(), m.name) == options.only.end();
    });
  }
  std::vector<text::ReplayResult> results;
  {
    Progress progress("Replaying", options.tokens, "tokens");
    results = text::replay_kv(model, tokens, all, options.replay, loaded.pool->cores(), stop,
                              progress.callback());
  }
  const auto exact_bytes = static_cast<double>(
      layers * options.tokens * shape.page_bytes(kernels::KvFormat::kF16) / kernels::kPageTokens);
  const bench::Report out = report(results, options, loaded.model.name(), exact_bytes);
  bench::print(out);
  if (!options.json_file.empty()) bench::write_json(out, options.json_file);
}

void add_eval_kv(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "kv",
      "What a model loses when keys and values are kept in few bits: the same text, side by side");
  command->add_option("text", options->text, "The text file")->required()->type_name("FILE");
  command->add_option("--tokens", options->tokens, "Replay the first N tokens")
      ->capture_default_str()
      ->check(CLI::Range(size_t{2}, size_t{1} << 24));
  command->add_option("--bits", options->bits, "The final width of a value: 8, 4 or 2")
      ->capture_default_str()
      ->check(CLI::IsMember({8, 4, 2}));
  command->add_option("--sidecar", options->sidecar,
                      "Of weft calibrate kv: adds methods with widths allocated by layer");
  command->add_option("--only", options->only, "Of the methods, those with these names")
      ->delimiter(',')
      ->type_name("NAME");
  command->add_option("--bucket", options->replay.bucket_tokens, "Positions of a bucket")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--json", options->json_file, "Also write everything to this file");
  add_model_options(*command, options->model);
  command->footer(
      "Example: weft eval kv book.txt --tokens 4096 --bits 4 --only 'direct 4,progressive 4'");
  command->callback([options, stop] { eval_kv(*options, stop); });
}

}  // namespace

void add_eval(CLI::App& program, StopToken stop) {
  CLI::App* command = program.add_subcommand("eval", "Measure what a technique costs in quality");
  command->footer("Example: weft eval kv book.txt");
  command->require_subcommand(1);
  add_eval_kv(*command, stop);
}

}  // namespace weft::cli
