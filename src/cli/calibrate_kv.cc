#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "bench/report.h"
#include "cli/calibrate.h"
#include "cli/model_options.h"
#include "text/kv_calibration.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  std::filesystem::path text, out;
  size_t tokens = 1024;
};

std::string widths_text(const std::vector<text::KvWidths>& widths) {
  std::string line;
  for (const text::KvWidths& w : widths)
    line += fmt::format("{}{}/{}", line.empty() ? "" : " ", w.k, w.v);
  return line;
}

void print(const text::KvCalibration& c) {
  bench::Report report;
  report.bench = "calibrate kv";
  report.notes = {"Mean KL divergence when one side of one layer alone is narrow."};
  bench::Table table{
      .name = "sensitivity", .columns = {"layer", "K8", "K4", "K2", "V8", "V4", "V2"}, .rows = {}};
  for (size_t i = 0; i < c.layers.size(); ++i) {
    std::vector<bench::Cell> row = {bench::cell(static_cast<double>(i), 0)};
    for (const auto* side : {&c.layers[i].k, &c.layers[i].v})
      for (const double kl : *side) row.push_back(bench::cell(kl, 7));
    table.rows.push_back(std::move(row));
  }
  report.tables.push_back(std::move(table));
  bench::Table smoothing{
      .name = "smoothing of keys at 4 bit: relative squared error of attention",
      .columns = {"layer", "alpha", "error", "without", "ratio"},
      .rows = {}};
  for (size_t i = 0; i < c.smoothing.size(); ++i) {
    const text::KvSmoothing& s = c.smoothing[i];
    smoothing.rows.push_back({bench::cell(static_cast<double>(i), 0), bench::cell(s.alpha, 2),
                              bench::cell(s.error, 7), bench::cell(s.plain_error, 7),
                              bench::cell(s.plain_error == 0 ? 1 : s.error / s.plain_error, 2)});
  }
  report.tables.push_back(std::move(smoothing));
  for (const size_t bits : {6, 4, 3})
    report.notes.push_back(
        fmt::format("{} bits a value, K/V of each layer: {}", bits,
                    widths_text(text::allocate_kv(c.layers, c.layers.size() * 2 * bits, 2))));
  bench::print(report);
}

void calibrate(Options& options, StopToken stop) {
  constexpr size_t kTextLimit = size_t{1} << 30;
  const std::string text = read_file(options.text, kTextLimit);
  const std::filesystem::path path = model_path(options.model.model);
  if (options.out.empty()) options.out = std::filesystem::path(path).replace_extension(".kvq.json");
  const LoadedModel loaded = load_model(options.model);
  std::vector<models::Token> tokens =
      loaded.model.tokenizer().encode(text, {.add_special = true, .parse_special = false});
  if (tokens.size() > options.tokens) tokens.resize(options.tokens);
  text::KvCalibration result;
  {
    Progress progress("Calibrating", 0, "caches");
    result = text::calibrate_kv(loaded.model.model(), tokens, loaded.pool->cores(), stop,
                                progress.callback());
  }
  {
    Progress progress("Smoothing", 0, "layers");
    result.smoothing = text::search_smoothing(loaded.model.model(), tokens, {},
                                              loaded.pool->cores(), stop, progress.callback());
  }
  const auto checkpoint = formats::open_checkpoint(path);
  result.model = loaded.model.name();
  result.model_hash = text::kv_model_hash(*checkpoint);
  result.text_hash = text::kv_text_hash(text);
  text::save_kv_calibration(result, options.out);
  print(result);
  fmt::print("wrote {}\n", options.out.string());
}

}  // namespace

void add_calibrate_kv(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "kv", "Measure which layers may keep keys and values in fewer bits and what evens out their keys, "
            "and write a .kvq.json");
  command->add_option("text", options->text, "A text like those the model will read and write")
      ->required()
      ->type_name("FILE");
  command->add_option("--tokens", options->tokens, "Use the first N tokens; time grows with them")
      ->capture_default_str()
      ->check(CLI::Range(size_t{258}, size_t{1} << 24));
  command->add_option("--out", options->out, "Write here")
      ->default_str("the model's name .kvq.json");
  add_model_options(*command, options->model, stop);
  command->footer("Example: weft calibrate kv book.txt --model model.gguf");
  command->callback([options, stop] { calibrate(*options, stop); });
}

}  // namespace weft::cli
