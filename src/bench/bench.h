// The benches of the program, one file each: `weft bench NAME`. A bench runs baseline and technique
// alternately in one process run, checks what they compute, and reports medians, spread and ratios.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "bench/report.h"
#include "comm/communicator.h"

namespace weft::bench {

// Of `bench serve` alone. 0 and empty: the bench's choice.
struct ServeBenchOptions {
  std::string shape = "mix";           // LoadOptions::shape
  std::filesystem::path trace = {};    // LoadOptions::trace
  double divide_lengths = 0, arrival_cv = 1;
  std::vector<double> rates = {};  // in units of the measured capacity
  size_t requests = 0;             // a point
  size_t seeds = 1, first_seed = 1;
  double step = 1;  // LoadOptions::step
  std::vector<std::string> only = {};  // systems, by name
  std::filesystem::path svg = {};      // goodput over the rate
  std::filesystem::path resume = {};   // ServeRecord
};

// Of `bench tasp` alone. Empty and 0: the bench's choice.
struct TaspBenchOptions {
  std::vector<size_t> tokens = {};      // of the sequence, in attention alone
  size_t heads = 0;                     // of 64; as many of keys and values
  size_t nodes = 1;                     // machines that the ranks are on, as many on each
  std::string mask = {};                // causal, full; else both
  int rounds = 0;
  bool transfers_alone = false;
  std::filesystem::path topology = {};  // of the links, for predictions
};

// Of `bench flashoverlap` alone.
struct OverlapBenchOptions {
  std::vector<size_t> features = {};  // of a rank's shard: products of 512 rows, 2048 columns; else real ones
};

// Of `bench ranks` alone.
struct RanksBenchOptions {
  size_t tensor = 0, sequence = 1;  // as in parallel::RankPlan; tensor 0: the ranks / sequence
  size_t prompt_tokens = 512, answer_tokens = 32;
};

// Of `bench vocab` alone.
struct VocabBenchOptions {
  std::vector<std::string> only = {};  // parts, by name; none: all
};

// Of `bench megrez2` alone.
struct Megrez2BenchOptions {
  std::vector<std::string> only = {};  // parts, by name; none: all, without the servers if quick
};

struct BenchOptions {
  bool quick = false;  // under a minute on two cores
  std::vector<size_t> threads = {1, 2};
  std::vector<std::filesystem::path> models;  // for the benches that take any
  std::optional<std::filesystem::path> peer;  // llama-bench of a llama.cpp build
  ServeBenchOptions serve;
  const comm::Communicator* ranks = nullptr;  // of the job, where a launcher started one
  std::filesystem::path trace = {};           // a timeline for chrome://tracing, of `bench flashoverlap`
  TaspBenchOptions tasp = {};
  OverlapBenchOptions overlap = {};
  RanksBenchOptions crew = {};
  VocabBenchOptions vocab = {};
  Megrez2BenchOptions megrez2 = {};
  StopToken stop;
};

struct Bench {
  const char* name;
  const char* description;
  const char* example;
  bool takes_models;
  bool takes_load;
  Report (*run)(const BenchOptions& options);
  bool on_ranks = false;  // run by every rank of a job; rank 0's report counts
};
std::span<const Bench> benches();

Report run_llm(const BenchOptions& options);
Report run_serve(const BenchOptions& options);
Report run_stall(const BenchOptions& options);
Report run_phase_curves(const BenchOptions& options);
Report run_switch(const BenchOptions& options);
Report run_http(const BenchOptions& options);
Report run_vocab(const BenchOptions& options);
Report run_isolate(const BenchOptions& options);
Report run_kernels(const BenchOptions& options);
Report run_kv(const BenchOptions& options);
Report run_flashoverlap(const BenchOptions& options);
Report run_megrez2(const BenchOptions& options);
Report run_tasp(const BenchOptions& options);
Report run_ranks(const BenchOptions& options);

enum class WarmUp { kRound, kNone };  // kNone: the contestants warm themselves up

// Measures every contestant once a round, `rounds` times, after one round that warms up and is not
// counted. The order turns round by round, so that a machine that slows down slows all of them.
// Gives each contestant's values.
std::vector<std::vector<double>> alternate(int rounds,
                                           std::span<const std::function<double()>> contestants,
                                           StopToken stop, WarmUp warm_up = WarmUp::kRound);

}  // namespace weft::bench
