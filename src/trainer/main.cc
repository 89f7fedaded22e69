// The trainer, a program of its own beside `weft`, which starts it for `weft train`: libtorch
// brings two hundred shared libraries that no other command should wait for.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "train/config.h"
#include "trainer/bench.h"
#include "trainer/lm.h"

namespace {

using namespace weft;

constexpr const char* kExample = R"(Example of a config (keys that are left out have defaults):
  {
    "out": "runs/tiny",
    "tokenizer": "models/SmolLM2-135M-Instruct.Q4_1.gguf",
    "model": {"architecture": "llama", "num_hidden_layers": 4, "hidden_size": 128},
    "data": ["stories.jsonl", "task:reason?level=easy,medium"],
    "eval": "task:reason?level=medium&split=test",
    "steps": 1000, "batch_tokens": 16384, "lr": 1e-3
  }
Lines of a .jsonl file: {"prompt": "...", "completion": "..."} (the loss is on the completion),
{"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]} (on the assistant's turns).

Example: weft train lm examples/train/tiny.json --set steps=50)";

struct Options {
  std::string config;
  std::vector<std::string> settings;
  bool resume = false, print_config = false;
};

void run(const Options& options, StopToken stop) {
  train::Config config;
  if (!options.config.empty())
    config = train::parse_config(read_file(options.config), options.config, options.settings);
  if (options.print_config) {
    std::fputs(train::print_config(config).c_str(), stdout);
    return;
  }
  if (options.config.empty())
    fail(ErrorKind::kInvalidInput,
         "no config given: weft train lm CONFIG.json ('weft train lm --help' shows one)");
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  std::string command = "weft train lm " + options.config;
  for (const std::string& setting : options.settings) command += " --set '" + setting + "'";
  trainer::train_lm(config, {.command = command, .resume = options.resume}, stop);
}

void add_bench(CLI::App& program) {
  auto options = std::make_shared<trainer::BenchOptions>();
  CLI::App* command = program.add_subcommand(
      "bench",
      "Measure how fast a model of 5 million parameters trains, beside this machine's limit");
  command->add_option("--device", options->device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "Of the products: bf16 or f32")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  command->add_option("--batch-tokens", options->batch_tokens, "Of one step")
      ->check(CLI::Range(size_t{8}, size_t{1} << 24))
      ->capture_default_str();
  command->add_option("--sequence", options->sequence, "Tokens of a sequence")
      ->check(CLI::Range(size_t{8}, size_t{1} << 16))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Cores to work on")
      ->check(CLI::Range(size_t{1}, size_t{1024}))
      ->default_str("all");
  command->add_option("--json", options->json_file, "Also write everything to this file");
  command->footer("Example: weft train bench --batch-tokens 8192");
  command->callback([options] { trainer::bench(*options); });
}

int parse_and_run(int argc, char** argv) {
  CLI::App program{"Trains models (libtorch). Results load in weft, transformers and llama.cpp."};
  program.name("weft train");
  program.require_subcommand(1);
  program.footer("Example: weft train lm examples/train/tiny.json");
  const StopToken stop = install_interrupt_handlers();
  auto options = std::make_shared<Options>();
  CLI::App* lm = program.add_subcommand("lm", "Pre-train or fine-tune a language model");
  lm->add_option("config", options->config, "A JSON file; // comments are allowed");
  lm->add_option("--set", options->settings,
                 "Another value for a key: lr=3e-4, model.hidden_size=128")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  lm->add_flag("--resume", options->resume, "Go on from the newest checkpoint in the run's folder");
  lm->add_flag("--print-config", options->print_config,
               "Print all keys with their values (the defaults, or CONFIG's) and what they mean");
  lm->footer(kExample);
  lm->callback([options, stop] { run(*options, stop); });
  add_bench(program);
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& asked_for_help) {
    return program.exit(asked_for_help);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "weft: %s. See 'weft train --help'.\n", error.what());
    return exit_code(ErrorKind::kInvalidInput);
  }
}

// OpenBLAS takes its oldest kernels on a processor that it does not know by name (an eighth of the
// speed, on a virtual machine of 2026), and looks at this variable only when it is loaded: before
// main().
void start_again_with_fast_blas([[maybe_unused]] char** argv) {
#if defined(WEFT_HAVE_BLAS) && defined(__x86_64__)
  constexpr const char* kVariable = "OPENBLAS_CORETYPE";
  if (std::getenv(kVariable) != nullptr) return;
  const bool has_avx512 = __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!has_avx2) return;
  setenv(kVariable, has_avx512 ? "SKYLAKEX" : "HASWELL", 0);
  execv("/proc/self/exe", argv);  // if that fails, it is slower
#endif
}

}  // namespace

int main(int argc, char** argv) {
  start_again_with_fast_blas(argv);
  try {
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "weft: %s\n", error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    std::fputs("weft: out of memory. Use a smaller batch_tokens (with accumulate) or model.\n",
               stderr);
    return exit_code(ErrorKind::kOutOfResources);
  } catch (const std::exception& error) {  // libtorch's, among others
    std::fprintf(stderr, "weft: %s\n", error.what());
    return 1;
  }
}
