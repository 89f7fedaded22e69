#include <fmt/format.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "cli/commands.h"
#include "formats/requantize.h"

namespace weft::cli {
namespace {

struct Options {
  std::string in, out, type = "q4_K_M";
  size_t threads = available_cores();
  bool force = false;
};

void check_output(const Options& options) {
  namespace fs = std::filesystem;
  if (!fs::exists(options.out)) return;
  if (fs::is_directory(options.out))
    fail(ErrorKind::kInvalidInput, "{}: is a folder; name the .gguf file to write", options.out);
  if (fs::equivalent(options.in, options.out))
    fail(ErrorKind::kInvalidInput, "{}: is the input itself; name another file to write",
         options.out);
  if (!options.force)
    fail(ErrorKind::kInvalidInput, "{}: exists already; add --force to replace it", options.out);
}

void quantize(const Options& options, StopToken stop) {
  const formats::QuantMix& mix = formats::quant_mix(options.type);
  const auto source = formats::open_checkpoint(options.in);
  check_output(options);
  std::signal(SIGXFSZ,
              SIG_IGN);  // a limit on file sizes ends in an error, not in a half-written file
  ThreadPool pool(options.threads);
  formats::RequantizeReport report;
  {
    Progress progress("Quantising", 0, "bytes");
    report =
        formats::requantize(*source, options.out, mix, pool.cores(), stop, progress.callback());
  }
  std::string types;
  for (const auto& [type, count] : report.tensors)
    types += fmt::format("{}{} {}", types.empty() ? "" : ", ", count, name(type));
  fmt::print("{}: {:.1f} MiB of tensors, was {:.1f} MiB ({})\n", options.out,
             static_cast<double>(report.written_bytes) / (1 << 20),
             static_cast<double>(report.source_bytes) / (1 << 20), types);
  if (report.was_quantised)
    fmt::print(
        "note: the input was quantised already, so quality was lost twice; a bf16 or f16 input "
        "gives better results.\n");
  if (!report.has_tokenizer)
    fmt::print(
        "note: the input has no tokenizer, so the file computes logits but takes no text.\n");
}

}  // namespace

void add_quantize(CLI::App& program, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("quantize", "Rewrite a model as GGUF in fewer bits");
  std::string types;
  for (const formats::QuantMix& mix : formats::quant_mixes())
    types += (types.empty() ? "" : ", ") + std::string(mix.name);
  command->add_option("in", options->in, "A .gguf file or a Hugging Face folder")->required();
  command->add_option("out", options->out, "The .gguf file to write")->required();
  command->add_option("--type", options->type, "One of " + types)->capture_default_str();
  command->add_option("--threads", options->threads, "Cores to work on")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1024}));
  command->add_flag("--force", options->force, "Replace a file that exists");
  command->footer(
      "From a Hugging Face folder the tokenizer is carried over if it is byte-level BPE as in "
      "GPT-2,\n"
      "SmolLM, Llama 3 or Qwen2; other tokenizers are refused.\n"
      "Example: weft quantize model-f16.gguf model-q4.gguf --type q4_K_M");
  command->callback([options, stop] { quantize(*options, stop); });
}

}  // namespace weft::cli
