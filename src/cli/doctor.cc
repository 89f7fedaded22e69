#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "bench/limits.h"
#include "bench/machine.h"
#include "bench/report.h"
#include "cli/commands.h"
#include "cli/default_model.h"
#include "comm/link_meter.h"
#include "comm/mpi_transport.h"
#include "comm/topology.h"
#include "kernels/isa.h"

namespace weft::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kPasses = 5;
constexpr bench::Product kProducts[] = {bench::Product::kInt8, bench::Product::kBF16,
                                        bench::Product::kF32};
constexpr const char* kProductNames[] = {"int8", "bf16", "f32"};

struct Options {
  bool json = false, ranks = false;
  std::string disk_file;
  std::filesystem::path topology_file;
};

struct Limits {
  double read_one = 0, read_all = 0;               // bytes/s
  std::optional<double> peak_one[3], peak_all[3];  // operations/s, by kProducts
  std::optional<double> disk;                      // bytes/s
};

// What stands between this machine and a good run, with the command that mends it.
struct Advice {
  std::string problem, remedy;
};

Limits measure(const bench::Machine& machine, const std::string& disk_file) {
  ThreadPool pool(machine.cores);
  const CoreSet one = pool.subset(0, 1), all = pool.cores();
  Limits limits;
  {
    const bench::ReadBandwidth memory(machine.last_level_cache_bytes(), machine.available_bytes,
                                      all);
    limits.read_one = memory.measure(one, kPasses);
    limits.read_all = memory.measure(all, kPasses);
  }
  for (size_t i = 0; i < std::size(kProducts); ++i) {
    limits.peak_one[i] = bench::peak_rate(kProducts[i], one, kPasses);
    limits.peak_all[i] = bench::peak_rate(kProducts[i], all, kPasses);
  }
  if (!disk_file.empty()) limits.disk = bench::disk_read_rate(disk_file, size_t{1} << 30);
  return limits;
}

std::vector<Advice> examine(const bench::Machine& machine) {
  std::vector<Advice> advice;
  if (!std::ifstream(default_model())) {
    advice.push_back({"the default model is not here", "./run fetches it; or pass --model FILE"});
  }
  if (machine.huge_pages == "never") {
    advice.push_back({"transparent huge pages are off: reading weights will be slower",
                      "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root)"});
  }
  if (kernels::active_isa() != kernels::available_isas().front()) {
    advice.push_back({fmt::format("WEFT_ISA holds the kernels at {}", name(kernels::active_isa())),
                      "unset WEFT_ISA"});
  } else if (kernels::active_isa() == kernels::Isa::kPortable) {
    advice.push_back(
        {"no AVX2: products run on the portable kernels, which are several times slower",
         "use a CPU with AVX2 or, better, AVX-512 VNNI"});
  }
  return advice;
}

ordered_json number(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

void print_json(const bench::Machine& machine, const Limits& limits,
                const std::vector<Advice>& advice) {
  ordered_json peaks;
  for (size_t i = 0; i < std::size(kProducts); ++i) {
    peaks[kProductNames[i]] = {{"one_core", number(limits.peak_one[i])},
                               {"all_cores", number(limits.peak_all[i])}};
  }
  ordered_json notes = ordered_json::array();
  for (const Advice& a : advice) notes.push_back({{"problem", a.problem}, {"remedy", a.remedy}});
  const ordered_json report = {
      {"machine", bench::to_json(machine)},
      {"isa", name(kernels::active_isa())},
      {"native_bf16", kernels::has_native_bf16()},
      {"read_bytes_per_second", {{"one_core", limits.read_one}, {"all_cores", limits.read_all}}},
      {"operations_per_second", std::move(peaks)},
      {"disk_bytes_per_second", number(limits.disk)},
      {"advice", std::move(notes)}};
  std::cout << report.dump(2) << '\n';
}

std::string join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

std::string describe(const std::vector<bench::Cache>& caches) {
  std::vector<std::string> parts;
  for (const bench::Cache& cache : caches) {
    if (cache.kind == "instruction") continue;
    std::string part = cache.bytes >= (1 << 20)
                           ? fmt::format("L{} {} MiB", cache.level, cache.bytes >> 20)
                           : fmt::format("L{} {} KiB", cache.level, cache.bytes >> 10);
    if (cache.shared_by > 1) part += fmt::format(" (shared by {})", cache.shared_by);
    parts.push_back(std::move(part));
  }
  return parts.empty() ? "unknown" : fmt::format("{}", fmt::join(parts, ", "));
}

void print_table(const bench::Machine& machine, const Limits& limits,
                 const std::vector<Advice>& advice) {
  constexpr double kGiB = 1 << 30, kGiga = 1e9;
  std::vector<std::string> isas;
  for (const kernels::Isa isa : kernels::available_isas()) isas.emplace_back(name(isa));
  fmt::print("CPU           {}\n", machine.cpu);
  fmt::print("  features    {}\n", join(machine.features));
  fmt::print("  kernels     {}{}; available: {}\n", name(kernels::active_isa()),
             kernels::has_native_bf16() ? " with bf16" : "", join(isas));
  fmt::print("  cores       {} usable, {} NUMA node{}\n", machine.cores, machine.numa_nodes,
             machine.numa_nodes == 1 ? "" : "s");
  fmt::print("  caches      {}\n", describe(machine.caches));
  fmt::print("memory        {:.1f} GiB, {:.1f} GiB available; transparent huge pages: {}\n",
             static_cast<double>(machine.memory_bytes) / kGiB,
             static_cast<double>(machine.available_bytes) / kGiB, machine.huge_pages);
  fmt::print("system        {}\n\n", machine.system);
  fmt::print("measured           1 core   all cores\n");
  fmt::print("  memory read    {:>8.1f}    {:>8.1f}  GB/s\n", limits.read_one / kGiga,
             limits.read_all / kGiga);
  for (size_t i = 0; i < std::size(kProducts); ++i) {
    if (!limits.peak_one[i]) continue;
    fmt::print("  {:<4} products  {:>8.1f}    {:>8.1f}  GOP/s\n", kProductNames[i],
               *limits.peak_one[i] / kGiga, *limits.peak_all[i] / kGiga);
  }
  if (limits.disk)
    fmt::print("  disk read      {:>8.1f}              GB/s\n", *limits.disk / kGiga);
  fmt::print("\n");
  if (advice.empty()) fmt::print("Nothing is missing.\n");
  for (const Advice& a : advice) fmt::print("! {}\n  -> {}\n", a.problem, a.remedy);
}

// Links between the ranks of a job. Rank 0 prints and writes; advice where pairs share something.
void examine_links(const Options& options) {
  const std::unique_ptr<comm::MpiJob> job = comm::MpiJob::join();
  const comm::Communicator& ranks = job->ranks();
  try {
    const std::vector<comm::PairSpeed> pairs = comm::measure_links(ranks);
    if (ranks.rank() != 0) return;
    const size_t n = ranks.size();
    fmt::print("{} ranks, {}\n", n, job->library());
    fmt::print("from  to  latency      alone          all at once\n");
    double slowest = 1e300, fastest = 0, least_share = 1;
    for (size_t from = 0; from < n; ++from)
      for (size_t to = 0; to < n; ++to) {
        if (from == to) continue;
        const comm::PairSpeed& pair = pairs[from * n + to];
        fmt::print("{:>4}{:>4}  {:>7.0f} us  {:>13}  {:>13}  ({} > {})\n", from, to,
                   pair.latency_s * 1e6, comm::rate_text(pair.bytes_per_s),
                   comm::rate_text(pair.together_bytes_per_s), ranks.host(from), ranks.host(to));
        slowest = std::min(slowest, pair.bytes_per_s);
        fastest = std::max(fastest, pair.bytes_per_s);
        least_share = std::min(least_share, pair.together_bytes_per_s / pair.bytes_per_s);
      }
    if (fastest > 2 * slowest)
      fmt::print(
          "! The slowest link has {} of the fastest.\n  -> All ranks wait for it: look at its "
          "cable, port or route.\n",
          bench::percent(slowest / fastest).text);
    if (n > 2 && least_share < 0.6)
      fmt::print(
          "! With all pairs at once, one has {} of its speed alone: pairs share a port or "
          "switch.\n  -> TASP gains little here (weft topo FILE says how much).\n",
          bench::percent(least_share).text);
    if (!options.topology_file.empty()) {
      AtomicFile file(options.topology_file);
      file.write(comm::topology_json(pairs, n));
      file.commit();
      fmt::print("written: {}\n", options.topology_file.string());
    }
  } catch (const Error& error) {
    fmt::print(stderr, "weft: rank {}: {}\n", ranks.rank(), error.what());
    job->end_job(exit_code(error.kind()));
  }
}

void doctor(const Options& options) {
  if (options.ranks) {
    if (!comm::is_launched_as_rank())
      fail(ErrorKind::kInvalidInput,
           "--ranks measures the links of several ranks. Example: mpirun -n 4 weft doctor --ranks");
    return examine_links(options);
  }
  const bench::Machine machine = bench::read_machine();
  const std::vector<Advice> advice = examine(machine);
  const Limits limits = measure(machine, options.disk_file);
  if (options.json) {
    print_json(machine, limits, advice);
  } else {
    print_table(machine, limits, advice);
  }
}

}  // namespace

void add_doctor(CLI::App& program, StopToken) {
  CLI::App* command =
      program.add_subcommand("doctor", "Show what this machine can do and what is missing");
  command->footer("Example: weft doctor");
  auto options = std::make_shared<Options>();
  command->add_flag("--json", options->json, "Print JSON instead of a table");
  command->add_option(
      "--disk", options->disk_file,
      "Also measure reading this file (a model) from its disk, the page cache emptied");
  command->add_flag("--ranks", options->ranks,
                    "Under mpirun or srun: latency and rate of every pair of ranks, alone and all "
                    "at once");
  command
      ->add_option("--topology", options->topology_file,
                   "With --ranks: also write them as a topology file, for weft topo")
      ->type_name("FILE");
  command->callback([options] { doctor(*options); });
}

}  // namespace weft::cli
