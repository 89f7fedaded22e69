#include "bench/megrez2_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "bench/child.h"
#include "bench/peer.h"
#include "text/expert_stream/expert_memory.h"

namespace weft::bench {
namespace {

namespace fs = std::filesystem;

double megabytes(double bytes) { return bytes * 1e-6; }
double megabytes(size_t bytes) { return static_cast<double>(bytes) * 1e-6; }

}  // namespace

void bench_batches(MixtureSetup& setup, const ExpertDisk& disk, Report& report) {
  Table table;
  table.name = fmt::format("{} sequences at once, half of the experts in memory; disk: {}",
                           kSequences, disk.name);
  table.columns = {"setting", "tokens/s", "of resident", "hits", "wait ms a step", "MB/token"};
  setup.route(kSequences);
  std::vector<MixtureSetup::Stream> streams;
  std::vector<text::ExpertCounters> before;
  for (size_t i = 0; i < 2; ++i) {
    streams.push_back(setup.open_warm(disk, kStreamSettings[i], setup.slots_of(0.5)));
    before.push_back(streams.back()->counters());
  }
  const auto seconds = setup.take_turns({streams[0].get(), streams[1].get()});
  const auto n = static_cast<double>(kSequences);
  table.rows.push_back({cell(std::string("all in memory")),
                        cell(n / spread_of(seconds[0]).median, 1), no_cell(), no_cell(), no_cell(),
                        no_cell()});
  for (size_t i = 0; i < streams.size(); ++i) {
    const StreamPoint point =
        setup.point_of(streams[i]->counters() - before[i], seconds[0], seconds[i + 1]);
    table.rows.push_back({cell(std::string(kStreamSettings[i].name)),
                          cell(n / point.seconds.median, 1), percent(point.of_resident.median),
                          percent(point.hit_rate), cell(point.stall_s * 1e3, 2),
                          cell(megabytes(point.bytes) / n, 2)});
    if (i == 0) report.summary["half_memory_speed_batch"] = point.of_resident.median;
  }
  report.tables.push_back(std::move(table));
  setup.route(1);
}

void bench_prefill(MixtureSetup& setup, const ExpertDisk& disk, Report& report) {
  ExchangedExperts& experts = setup.mixture.experts();
  experts.route(nullptr);
  const auto stream = setup.open(disk, kStreamSettings[0], setup.slots_of(0.5));
  uint64_t bytes = 0;
  const std::function<double()> contestants[] = {
      [&] {
        experts.use(setup.resident.get());
        return setup.mixture.prefill(kPrefillTokens, setup.cores);
      },
      [&] {
        experts.use(stream.get());
        const auto before = stream->counters();
        const double seconds = setup.mixture.prefill(kPrefillTokens, setup.cores);
        bytes = (stream->counters() - before).bytes_read;
        return seconds;
      }};
  const auto seconds = alternate(setup.options.quick ? 1 : 3, contestants, setup.options.stop);
  experts.use(nullptr);
  const double all_s = spread_of(seconds[0]).median, half_s = spread_of(seconds[1]).median;
  const double pack = setup.record_bytes * static_cast<double>(setup.plan.num_experts);
  Table table;
  table.name = fmt::format("a prompt of {} tokens in one pass, tokens/s; disk: {}", kPrefillTokens,
                           disk.name);
  table.columns = {"all in memory", "half, pre-gated", "ratio", "of the pack read"};
  table.rows.push_back({cell(kPrefillTokens / all_s, 1), cell(kPrefillTokens / half_s, 1),
                        cell(all_s / half_s, 2), percent(static_cast<double>(bytes) / pack)});
  report.summary["half_memory_prefill"] = all_s / half_s;
  report.tables.push_back(std::move(table));
  setup.route(1);
}

void bench_memory(const BenchOptions& options, const fs::path& model, const fs::path& pack,
                  const CoreSet& cores, Report& report) {
  constexpr size_t kContext = 256;
  const models::MemoryPlan plan =
      models::plan_memory(*formats::open_checkpoint(model), kernels::KvFormat::kF16, kContext);
  const fs::path program = fs::read_symlink("/proc/self/exe");
  const auto peak_of = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {program.string(),
                                        "generate",
                                        "--raw",
                                        "--temp",
                                        "0",
                                        "--max-tokens",
                                        "8",
                                        "--model",
                                        model.string(),
                                        "--threads",
                                        std::to_string(cores.size()),
                                        "--context",
                                        std::to_string(kContext),
                                        "One day"};
    command.insert(command.end(), more.begin(), more.end());
    const ChildResult child = run_child(command, options.stop);
    if (child.exit_code != 0)
      fail(ErrorKind::kInvalidInput, "{} generate ended with {}: {}", program.string(),
           child.exit_code, child.error_tail);
    return child.peak_memory_bytes;
  };
  Table table;
  table.name = fmt::format(
      "memory of a process that answers: budget (weights, slots, context of {}, scratch) and peak, "
      "MB",
      kContext);
  table.columns = {"experts in memory", "slots", "budget", "peak resident", "peak / budget"};
  double worst = 0;
  for (const double part : {1.0, 0.5, 0.25}) {
    const text::ExpertBudget budget{.bytes = 0, .fraction = part};
    const size_t kv_bytes = plan.kv_bytes_per_token * kContext;
    const size_t slots = text::plan_expert_slots(budget, plan, kv_bytes, model.string());
    const bool all = slots == plan.num_experts;
    const size_t experts = all ? plan.expert_bytes : slots * text::expert_slot_bytes(plan);
    const size_t given =
        plan.weight_bytes - plan.expert_bytes + experts + kv_bytes + plan.scratch_bytes;
    const size_t peak = all ? peak_of({})
                            : peak_of({"--expert-memory", fmt::format("{}%", 100 * part),
                                       "--expert-pack", pack.string()});
    const double ratio = static_cast<double>(peak) / static_cast<double>(given);
    worst = std::max(worst, ratio);
    table.rows.push_back({percent(part), cell(static_cast<double>(slots), 0),
                          cell(megabytes(given), 0), cell(megabytes(peak), 0), cell(ratio, 3)});
  }
  report.summary["peak_over_budget"] = worst;
  report.tables.push_back(std::move(table));
}

void bench_unshared(const BenchOptions& options, const fs::path& shared, const fs::path& unshared,
                    const CoreSet& cores, double shared_s, Report& report) {
  const models::MemoryPlan ours = plan_of_mixture(shared), theirs = plan_of_mixture(unshared);
  const size_t tokens = options.quick ? 32 : 96;
  BenchMixture mixture(unshared, 1, tokens, cores);
  const auto resident = load_experts(mixture.experts().table(), mixture.checkpoint(), cores);
  mixture.experts().use(resident.get());
  mixture.decode(tokens, 1, 0, cores);
  std::optional<Peer> peer;
  if (options.peer) peer.emplace(*options.peer, options.stop);
  const PeerTest test{.model = unshared, .threads = cores.size(), .generated_tokens = tokens};
  const BesidePeer speed = measure_beside(
      peer, test, options.quick ? 3 : 5, [&] { return 1 / mixture.decode(tokens, 1, 0, cores); },
      options);
  mixture.experts().use(nullptr);
  Table table;
  table.name = "experts shared by three layers against experts of each layer's own, all in memory";
  table.columns = {"model", "experts MB", "tokens/s", "llama.cpp", "ours / peer's"};
  table.rows.push_back({cell(shared.stem().string()), cell(megabytes(ours.expert_bytes), 0),
                        cell(1 / shared_s, 1), no_cell(), no_cell()});
  table.rows.push_back({cell(unshared.stem().string()), cell(megabytes(theirs.expert_bytes), 0),
                        cell(speed.ours, 1), peer ? cell(*speed.peer, 1) : no_cell(),
                        peer ? cell(speed.ratio(), 2) : no_cell()});
  report.tables.push_back(std::move(table));
  report.summary["shared_expert_memory"] =
      static_cast<double>(ours.expert_bytes) / static_cast<double>(theirs.expert_bytes);
  report.summary["vs_peer_moe"] =
      peer ? nlohmann::ordered_json(speed.ratio()) : nlohmann::ordered_json(nullptr);
}

bool memory_is_limited(const models::MemoryPlan& plan) {
  return text::memory_limit() < plan.weight_bytes + plan.scratch_bytes;
}

void bench_limited(MixtureSetup& setup, Report& report) {
  setup.route(1);
  constexpr size_t kOthers = size_t{64}
                             << 20;  // the program, KV cache, logits, a page cache's least
  const size_t limit = text::memory_limit();
  const size_t others = setup.plan.weight_bytes - setup.plan.expert_bytes + kOthers;
  const size_t room = limit - std::min(limit, others);
  const size_t slots =
      std::max(room / static_cast<size_t>(setup.record_bytes), 2 * setup.experts_per_token);
  Table table;
  table.name =
      fmt::format("under a limit of {:.0f} MB of memory, page cache included; this machine's disk",
                  megabytes(limit));
  table.columns = {"experts", "tokens/s", "hits", "MB read/token"};
  const auto measure = [&](models::ExpertStore& store) {
    setup.mixture.experts().use(&store);
    setup.mixture.decode(kWarmTokens, 1, 0, setup.cores);
    std::vector<double> seconds;
    for (size_t r = 0; r < setup.rounds; ++r) seconds.push_back(setup.decode_round(store, r));
    setup.mixture.experts().use(nullptr);
    return spread_of(seconds).median;
  };
  double slots_s = 0;
  {
    const auto stream = setup.open({"", 0, {}}, kStreamSettings[0], slots);
    slots_s = measure(*stream);
    const text::ExpertCounters done = stream->counters();
    const auto tokens = static_cast<double>(kWarmTokens + setup.rounds * kRoundTokens);
    table.rows.push_back({cell(fmt::format("{} of {} in slots, read past the page cache", slots,
                                           setup.plan.num_experts)),
                          cell(1 / slots_s, 1), percent(done.hit_rate()),
                          cell(megabytes(done.bytes_read) / tokens, 2)});
  }
  const auto mapped = map_experts(setup.mixture.experts().table(), setup.pack);
  const double mapped_s = measure(*mapped);
  table.rows.push_back({cell(std::string("the mapped file, left to the page cache")),
                        cell(1 / mapped_s, 1), no_cell(), no_cell()});
  report.tables.push_back(std::move(table));
  report.summary["slots_vs_mmap"] = mapped_s / slots_s;
}

}  // namespace weft::bench
