#include "text/perplexity.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/model_options.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  std::filesystem::path text;
  size_t max_windows = SIZE_MAX;
  bool json = false;
};

void perplexity(Options& options, StopToken stop) {
  constexpr size_t kTextLimit = size_t{1} << 30;
  const std::string text = read_file(options.text, kTextLimit);
  const LoadedModel loaded = load_model(options.model);
  const formats::Tokenizer& tokenizer = loaded.model.tokenizer();
  const std::vector<models::Token> tokens =
      tokenizer.encode(text, {.add_special = true, .parse_special = false});
  text::PerplexityOptions how{.window_tokens = options.model.context,
                              .max_windows = options.max_windows,
                              .kv_format = loaded.model.kv_format(),
                              .kv_policy = loaded.model.kv_policy()};
  if (tokenizer.special().add_bos) how.first = tokenizer.special().bos;
  text::Perplexity result;
  {
    Progress progress("Scoring", tokens.size(), "tokens");
    result = text::measure_perplexity(loaded.model.model(), tokens, how, loaded.pool->cores(), stop,
                                      progress.callback());
  }
  if (!options.json) {
    fmt::print("perplexity {:.4f} +/- {:.4f} ({} windows of {} tokens, {} tokens scored)\n",
               result.perplexity, result.standard_error, result.num_windows, how.window_tokens,
               result.num_scored);
    return;
  }
  const nlohmann::ordered_json out = {
      {"perplexity", result.perplexity},    {"standard_error", result.standard_error},
      {"context", how.window_tokens},       {"windows", result.num_windows},
      {"tokens_scored", result.num_scored}, {"model", loaded.model.name()}};
  fmt::print("{}\n", out.dump(2));
}

}  // namespace

void add_perplexity(CLI::App& program, StopToken stop) {
  auto options = std::make_shared<Options>();
  options->model.context = 512;
  CLI::App* command =
      program.add_subcommand("perplexity", "How well a model predicts a text; lower is better");
  command->add_option("text", options->text, "The text file")->required()->type_name("FILE");
  command->add_flag("--json", options->json, "Print one JSON object");
  command->add_option("--windows", options->max_windows, "Score the first N windows only")
      ->default_str("all")
      ->check(CLI::PositiveNumber);
  add_model_options(*command, options->model, stop);
  command->get_option("--context")
      ->description("Tokens of a window; the second half of each is scored")
      ->default_str("512");
  command->footer(
      "The same definition as llama.cpp's llama-perplexity, so the figures can be compared.\n"
      "Example: weft perplexity --model model.gguf book.txt");
  command->callback([options, stop] { perplexity(*options, stop); });
}

}  // namespace weft::cli
