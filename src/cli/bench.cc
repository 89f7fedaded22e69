#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "bench/bench.h"
#include "cli/commands.h"
#include "cli/default_model.h"
#include "comm/mpi_transport.h"
#include "comm/topology.h"

namespace weft::cli {
namespace {

struct Options {
  bench::BenchOptions bench;
  std::string peer, json_file;
};

void run(const bench::Bench& bench, Options& options) {
  for (const size_t threads : options.bench.threads) {
    if (threads == 0 || threads > available_cores())
      fail(ErrorKind::kInvalidInput, "--threads {}: this process may use 1 to {} cores", threads,
           available_cores());
  }
  if (bench.takes_models && options.bench.models.empty()) options.bench.models = {default_model()};
  if (!options.peer.empty()) options.bench.peer = options.peer;
  const bench::Report report = bench.run(options.bench);
  if (options.bench.ranks != nullptr && options.bench.ranks->rank() != 0) return;
  bench::print(report);
  if (!options.json_file.empty()) bench::write_json(report, options.json_file);
}

// Every rank of a job runs the bench; one that fails says so and ends all of them.
void run_on_ranks(const bench::Bench& bench, Options& options) {
  if (!comm::is_launched_as_rank()) return run(bench, options);
  const std::unique_ptr<comm::MpiJob> job = comm::MpiJob::join();
  options.bench.ranks = &job->ranks();
  try {
    run(bench, options);
  } catch (const Error& error) {
    std::fprintf(stderr, "weft: rank %zu: %s\n", job->ranks().rank(), error.what());
    job->end_job(exit_code(error.kind()));
  }
}

void add_load_options(CLI::App& command, bench::ServeBenchOptions& load) {
  command.add_option("--shape", load.shape, "Lengths of prompts and answers: chat, long, math, mix")
      ->capture_default_str();
  command
      .add_option("--trace", load.trace,
                  "Lengths of a real load instead: a CSV of Azure's or JSON lines of Mooncake's")
      ->type_name("FILE");
  command.add_option("--divide-lengths", load.divide_lengths, "Shorter prompts and answers, by this")
      ->default_str("4, 8 if quick")
      ->check(CLI::PositiveNumber);
  command.add_option("--arrival-cv", load.arrival_cv, "Of the gaps: 1 Poisson, 2 bursty")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--step", load.step, "The second half arrives so many times as fast")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--rates", load.rates, "Arrival rates, in units of the measured capacity")
      ->delimiter(',')
      ->default_str("0.2,0.4,0.6,0.8,1")
      ->check(CLI::PositiveNumber);
  command.add_option("--requests", load.requests, "Of one run")->default_str("300, 60 if quick");
  command.add_option("--seeds", load.seeds, "Runs of each point")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{100}));
  command.add_option("--first-seed", load.first_seed, "Of these")->capture_default_str();
  command.add_option("--only", load.only, "Of the systems, those with these names")
      ->delimiter(',')
      ->type_name("NAME");
  command
      .add_option("--resume", load.resume,
                  "Keep each run in this file, and do not repeat those that it has")
      ->type_name("FILE");
  command.add_option("--svg", load.svg, "Draw goodput over the rate into this file");
}

void add_tasp_options(CLI::App& command, bench::TaspBenchOptions& tasp) {
  command.add_option("--tokens", tasp.tokens, "Lengths of the sequence, in attention alone")
      ->delimiter(',')
      ->default_str("2048,4096,8192; 2048 if quick")
      ->check(CLI::Range(size_t{1}, size_t{1} << 22));
  command.add_option("--heads", tasp.heads, "Of 64 values, as many of keys and values")
      ->default_str("8")
      ->check(CLI::Range(size_t{1}, size_t{256}));
  command.add_option("--mask", tasp.mask, "causal or full attention")
      ->default_str("both")
      ->check(CLI::IsMember({"causal", "full"}));
  command.add_option("--rounds", tasp.rounds, "Of which medians are taken, after one that warms up")
      ->default_str("5, 3 if quick")
      ->check(CLI::Range(1, 100));
  command.add_flag("--transfers-alone", tasp.transfers_alone, "Leave attention out");
  command
      .add_option("--nodes", tasp.nodes,
                  "Machines that the ranks are on, as many on each: TASP's paths over them, too")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1024}));
  command.add_option("--topology", tasp.topology,
                     "What predictions go by (weft doctor --ranks writes one)")
      ->type_name("FILE");
}

void add_crew_options(CLI::App& command, bench::RanksBenchOptions& crew) {
  command
      .add_option("--tensor-parallel", crew.tensor, "Ranks that share the weights between them")
      ->default_str("all ranks")
      ->check(CLI::Range(size_t{1}, comm::kMaxRanks));
  command
      .add_option("--sequence-parallel", crew.sequence,
                  "Teams of ranks that share the prompt's tokens between them")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, comm::kMaxRanks));
  command.add_option("--prompt-tokens", crew.prompt_tokens, "Length of the prompt")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 20));
  command.add_option("--answer-tokens", crew.answer_tokens, "Length of the answer")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 20));
}

void add_bench_command(CLI::App& parent, const bench::Bench& bench, StopToken stop) {
  CLI::App* command = parent.add_subcommand(bench.name, bench.description);
  command->footer(std::string("Example: ") + bench.example);
  auto options = std::make_shared<Options>();
  options->bench.stop = stop;
  if (available_cores() < 2) options->bench.threads = {1};
  if (bench.takes_models) {
    command->add_option("--model", options->bench.models,
                        "GGUF files to measure (default: the default model)");
    command->add_option("--peer", options->peer,
                        "llama-bench of a llama.cpp build (tools/build_peer.sh makes one)");
  }
  if (bench.run == bench::run_vocab)
    command
        ->add_option(
            "--only", options->bench.vocab.only,
            "Of the parts, those with these names: memory, tasks (or one of them: extraction, "
            "summary, rewriting, maths, code), head, decode, drafts, first-token")
        ->delimiter(',')
        ->type_name("NAME");
  if (bench.run == bench::run_megrez2)
    command
        ->add_option("--only", options->bench.megrez2.only,
                     "Of the parts, those with these names: memory, decode, server")
        ->delimiter(',')
        ->default_str("all; server not with --quick")
        ->type_name("NAME");
  if (bench.run == bench::run_tasp) add_tasp_options(*command, options->bench.tasp);
  if (bench.run == bench::run_ranks) add_crew_options(*command, options->bench.crew);
  if (bench.run == bench::run_flashoverlap) {
    command
        ->add_option("--features", options->bench.overlap.features,
                     "Products of 512 rows and 2048 columns with so many features on each rank")
        ->delimiter(',')
        ->default_str("those of real models")
        ->check(CLI::Range(size_t{64}, size_t{1} << 17));
    command->add_option("--trace", options->bench.trace,
                        "Also write a timeline of rank 0, for chrome://tracing or Perfetto");
  }
  if (bench.takes_load) add_load_options(*command, options->bench.serve);
  command->add_option("--threads", options->bench.threads, "Thread counts")
      ->delimiter(',')
      ->capture_default_str();
  command->add_flag("--quick", options->bench.quick, "Under a minute on 2 cores: fewer rounds");
  command->add_option("--json", options->json_file, "Also write everything to this file");
  if (bench.on_ranks) {
    command->callback([&bench, options] { run_on_ranks(bench, *options); });
  } else {
    command->callback([&bench, options] { run(bench, *options); });
  }
}

}  // namespace

void add_bench(CLI::App& program, StopToken stop) {
  CLI::App* command =
      program.add_subcommand("bench", "Measure this machine's speed, beside its limits");
  command->footer("Example: weft bench llm --quick");
  command->require_subcommand(1);
  for (const bench::Bench& bench : bench::benches()) add_bench_command(*command, bench, stop);
}

}  // namespace weft::cli
