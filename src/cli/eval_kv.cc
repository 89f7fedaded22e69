#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "bench/report.h"
#include "cli/eval.h"
#include "cli/kv_methods.h"
#include "cli/model_options.h"
#include "text/kv_replay.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  std::filesystem::path text;
  size_t tokens = 4096;
  KvMethodOptions methods;
  std::string json_file;
  text::ReplayOptions replay;
};

std::string mib(double bytes) { return fmt::format("{:.2f}", bytes / (1 << 20)); }

bench::Report report(const std::vector<text::ReplayResult>& results, const Options& options,
                     const std::string& model, double exact_bytes) {
  bench::Report out;
  out.bench = "eval kv";
  out.notes = {
      fmt::format("{}: {} tokens of {}, teacher-forced, the cache as after the same number of "
                  "generated tokens.",
                  model, options.tokens, options.text.filename().string()),
      fmt::format("16 bit: {} MiB at the end. direct, progressive: the engine's own cache, MiB of its "
                  "blocks.",
                  mib(exact_bytes)),
      "kivi, q8_0, q4_0, two-tier: rounded as those formats round, held in 16 bit here; MiB of their "
      "numbers."};
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
    if (r.method.name == fmt::format("direct {}", options.methods.bits)) direct = all.mean_kl();
    if (r.method.name == fmt::format("progressive {}", options.methods.bits)) progressive = all.mean_kl();
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
  const std::vector<text::ReplayMethod> all = kv_methods(options.methods, options.model, model);
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

}  // namespace

void add_eval_kv(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "kv",
      "What a model loses when keys and values are kept in few bits: the same text, side by side");
  command->add_option("text", options->text, "The text file")->required()->type_name("FILE");
  command->add_option("--tokens", options->tokens, "Replay the first N tokens")
      ->capture_default_str()
      ->check(CLI::Range(size_t{2}, size_t{1} << 24));
  add_kv_method_options(*command, options->methods);
  command->add_option("--bucket", options->replay.bucket_tokens, "Positions of a bucket")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--json", options->json_file, "Also write everything to this file");
  add_model_options(*command, options->model, stop);
  command->footer(
      "Example: weft eval kv book.txt --tokens 4096 --bits 4 --only 'direct 4,progressive 4'");
  command->callback([options, stop] { eval_kv(*options, stop); });
}

}  // namespace weft::cli
