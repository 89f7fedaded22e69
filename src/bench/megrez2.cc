// `weft bench megrez2`: a mixture of experts of which a part is in memory. All resident, pre-gated,
// on demand, naive and least-recently-used take turns on the same tokens, on this machine's disk
// and on emulated ones, each beside what the time model says.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "bench/megrez2_setup.h"
#include "bench/megrez2_tables.h"
#include "formats/random_model.h"

namespace weft::bench {
namespace {

namespace fs = std::filesystem;
using text::ExpertPolicy;

constexpr double kParts[] = {1.0, 0.9, 0.75, 0.5, 0.25};  // of all experts, in memory
constexpr double kQuickParts[] = {0.75, 0.5};

// The published shape in 4.5 bit on this class of machine: 1.8 ms a layer, 4.87 MB an expert. With
// disks of 1.2 and 3.5 GB/s a read of one takes so many times as long as a layer; an emulated disk
// has that ratio, whatever the size of the model.
struct Ratio {
  const char* name;
  double reads_per_layer_time;
};
constexpr Ratio kEmulated[] = {{"emulated, like 1.2 GB/s", 2.26},
                               {"emulated, like 3.5 GB/s", 0.77}};

// Below this a layer takes less than waking a thread does, and nothing of the published ratio is
// left.
constexpr double kLeastLayerSeconds = 100e-6;

// Files that the bench makes, gone with it.
struct WorkFolder {
  fs::path path = fs::temp_directory_path() / fmt::format("weft_bench_megrez2_{}", ::getpid());
  WorkFolder() { fs::create_directories(path); }
  ~WorkFolder() {
    std::error_code none;
    fs::remove_all(path, none);
  }
};

nlohmann::ordered_json value_or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

// Decoding at several sizes of memory, from several disks.
class DecodeTable {
 public:
  DecodeTable(MixtureSetup& setup, Report& report) : setup_(setup), report_(report) {
    table_.name = "decoding with a part of the experts in memory";
    table_.columns = {"disk", "in memory", "setting",  "tokens/s",  "of resident",       "of bound",
                      "hits", "wait ms",   "MB/token", "predicted", "measured/predicted"};
  }

  void run() {
    setup_.load_resident();
    setup_.route(1);
    measure_computing();
    if (parts_.layer_s < kLeastLayerSeconds) {
      report_.notes.push_back(
          fmt::format("A layer computes for {:.0f} us, less than it takes to wake a reader: hits "
                      "alone are told.",
                      parts_.layer_s * 1e6));
    } else {
      std::vector<ExpertDisk> disks = {{"this machine's", 0, setup_.measure_disk()}};
      const double core_s = setup_.measure_core_seconds();
      for (const Ratio& ratio : kEmulated) {
        const double read_s = ratio.reads_per_layer_time * parts_.layer_s;
        disks.push_back(
            {ratio.name, setup_.record_bytes / read_s, {.record_s = read_s, .latency_s = read_s}});
      }
      for (ExpertDisk& disk : disks) disk.read.core_s = core_s;
      note_disk(disks[0]);
      const std::span<const double> parts =
          setup_.options.quick ? std::span<const double>(kQuickParts) : kParts;
      for (const ExpertDisk& disk : disks)
        for (const double part : parts) run_part(disk, part);
      report_.tables.push_back(std::move(table_));
      if (!setup_.own_routing) bench_batches(setup_, disks[0], report_);
      bench_prefill(setup_, disks[0], report_);
    }
    report_.tables.push_back(policy_table());
    summarise();
  }

  double resident_seconds() const { return resident_s_; }

 private:
  // How fast the model is with everything in memory, in slots too; the trace, and its parts.
  void measure_computing() {
    BenchMixture& mixture = setup_.mixture;
    mixture.experts().use(setup_.resident.get());
    if (setup_.own_routing) {
      mixture.write(kWarmTokens, setup_.cores);
      trace_.shape = mixture.experts().shape();
      mixture.experts().record(&trace_);
      mixture.decode(kWarmTokens, 1, 0, setup_.cores);
      mixture.experts().record(nullptr);
    } else {
      trace_ = setup_.routing->trace(0, kWarmTokens + setup_.rounds * kRoundTokens);
      mixture.decode(kWarmTokens, 1, 0, setup_.cores);
    }
    const auto all = setup_.open_warm({"", 0, {}}, kStreamSettings[0], setup_.plan.num_experts);
    for (size_t r = 0; r < setup_.rounds; ++r) setup_.decode_round(*all, r);  // all are read
    const auto seconds = setup_.take_turns({all.get()});
    resident_s_ = spread_of(seconds[0]).median;
    const double all_slots_s = spread_of(seconds[1]).median;
    parts_ = layer_parts(mixture.checkpoint(), trace_, resident_s_);
    const text::TraceOverlap overlap = overlap_of(trace_);
    report_.notes.push_back(fmt::format(
        "{}: {} experts of {:.2f} MB, {:.0f} MB together; a layer computes for {:.2f} ms.\n"
        "All in memory: {:.1f} tokens/s; all in slots: {:.1f}. Routing: {}.\n"
        "A visit shares {:.0f} % of its experts with the group's next layer, {:.0f} % with the "
        "token before, {:.0f} % by chance.",
        setup_.model.stem().string(), setup_.plan.num_experts, setup_.record_bytes * 1e-6,
        static_cast<double>(setup_.plan.expert_bytes) * 1e-6, parts_.layer_s * 1e3, 1 / resident_s_,
        1 / all_slots_s,
        setup_.own_routing ? "the model's own, on what it writes"
                           : "synthetic (bench/megrez2_experts.h)",
        overlap.within_group * 100, overlap.between_tokens * 100, overlap.by_chance * 100));
    report_.summary["resident_tokens_per_second"] = 1 / resident_s_;
    report_.summary["all_slots_speed"] = resident_s_ / all_slots_s;
    report_.summary["overlap_within_group"] = overlap.within_group;
    report_.summary["overlap_between_tokens"] = overlap.between_tokens;
  }

  void note_disk(const ExpertDisk& disk) {
    report_.notes.push_back(fmt::format(
        "This machine's disk, read past the page cache: {:.2f} GB/s by one reader, {:.2f} by two. "
        "A read takes {:.0f} us of the computing cores.",
        setup_.record_bytes / disk.read.latency_s * 1e-9,
        setup_.record_bytes / disk.read.record_s * 1e-9, disk.read.core_s * 1e6));
    report_.summary["disk_bytes_per_second"] = setup_.record_bytes / disk.read.record_s;
  }

  void run_part(const ExpertDisk& disk, double part) {
    const size_t slots = setup_.slots_of(part);
    std::vector<StreamSetting> settings(std::begin(kStreamSettings), std::end(kStreamSettings));
    if (setup_.options.quick) settings.resize(2);
    std::vector<MixtureSetup::Stream> streams;
    std::vector<text::ExpertCounters> before;
    std::vector<models::ExpertStore*> stores;
    for (const StreamSetting& setting : settings) {
      streams.push_back(setup_.open_warm(disk, setting, slots));
      before.push_back(streams.back()->counters());
      stores.push_back(streams.back().get());
    }
    const auto naive = setup_.open_warm_naive(disk, slots);
    settings.push_back(kNaiveSetting);
    before.push_back(naive->counters());
    stores.push_back(naive.get());
    const auto seconds = setup_.take_turns(stores);
    StreamPoint ours;  // pre-gated
    for (size_t i = 0; i < stores.size(); ++i) {
      const auto after = i < streams.size() ? streams[i]->counters() : naive->counters();
      const StreamPoint point = setup_.point_of(after - before[i], seconds[0], seconds[i + 1]);
      // The disk alone takes so long for what was read: no order of reads is faster.
      const double disk_s = point.bytes / setup_.record_bytes * disk.read.record_s;
      std::vector<double> least;
      for (const double resident_s : seconds[0]) least.push_back(std::max(resident_s, disk_s));
      const double of_bound = median_ratio(least, seconds[i + 1]);
      add_row(disk, part, settings[i], point, of_bound, seconds[i + 1],
              predict(disk, settings[i], slots, seconds[0]));
      if (i != 0) continue;
      ours = point;
      if (part == 0.5) keep_half(disk, point, of_bound);
    }
    compare_reads(ours, median_ratio(seconds[2], seconds[1]),
                  median_ratio(seconds.back(), seconds[1]));
  }

  // Seconds of a step in each round, by what all in memory took in the same.
  std::vector<double> predict(const ExpertDisk& disk, const StreamSetting& setting, size_t slots,
                              const std::vector<double>& resident_s) const {
    if (setup_.own_routing) return {};
    const text::ReplayCounts counts =
        replay(trace_, slots, setting.policy, setting.reads == ExpertReads::kPreGated);
    const size_t layers = trace_.shape.num_layers, visits = kRoundTokens * layers;
    std::vector<double> seconds;
    for (size_t r = 0; r < setup_.rounds; ++r) {
      const size_t first = kWarmTokens * layers + r * visits;
      const LayerParts parts = layer_parts(setup_.mixture.checkpoint(), trace_, resident_s[r]);
      seconds.push_back(predict_seconds(std::span(trace_.visits).subspan(first, visits),
                                        std::span(counts.misses_of).subspan(first, visits), parts,
                                        disk.read, setting.reads) /
                        kRoundTokens);
    }
    return seconds;
  }

  void add_row(const ExpertDisk& disk, double part, const StreamSetting& setting,
               const StreamPoint& point, double of_bound, const std::vector<double>& seconds,
               const std::vector<double>& predicted) {
    std::vector<Cell> row = {cell(disk.name),
                             percent(part),
                             cell(std::string(setting.name)),
                             cell(1 / point.seconds.median, 1),
                             percent(point.of_resident.median),
                             percent(of_bound),
                             percent(point.hit_rate),
                             cell(point.stall_s * 1e3, 2),
                             cell(point.bytes * 1e-6, 2)};
    if (!predicted.empty()) {
      const double ratio = median_ratio(seconds, predicted);
      errors_.push_back(std::abs(ratio - 1));
      row.push_back(cell(1 / spread_of(predicted).median, 1));
      row.push_back(cell(ratio, 2));
    } else {
      row.insert(row.end(), 2, no_cell());
    }
    table_.rows.push_back(std::move(row));
  }

  // Pre-gated beside the two that read when a layer asks.
  void compare_reads(const StreamPoint& ours, double over_ondemand, double over_naive) {
    if (over_ondemand < worst_ratio_.value_or(INFINITY)) worst_ratio_ = over_ondemand;
    if (ours.hit_rate < 0.8 || ours.hit_rate > 0.95) return;
    if (over_ondemand > best_ratio_.value_or(0)) best_ratio_ = over_ondemand;
    if (over_naive > best_over_naive_.value_or(0)) best_over_naive_ = over_naive;
  }

  void keep_half(const ExpertDisk& disk, const StreamPoint& ours, double of_bound) {
    const bool here = disk.bytes_per_second == 0;
    // Of the emulated ones the fastest is measured last.
    (here ? half_speed_here_ : half_speed_) = ours.of_resident.median;
    (here ? half_of_bound_here_ : half_of_bound_) = of_bound;
    if (of_bound < half_of_bound_worst_.value_or(INFINITY)) half_of_bound_worst_ = of_bound;
    hit_rate_half_ = ours.hit_rate;
  }

  void summarise() {
    auto& summary = report_.summary;
    summary["half_memory_speed"] = value_or_null(half_speed_);
    summary["half_memory_of_bound"] = value_or_null(half_of_bound_);
    summary["half_memory_of_bound_worst"] = value_or_null(half_of_bound_worst_);
    summary["half_memory_speed_this_disk"] = value_or_null(half_speed_here_);
    summary["half_memory_of_bound_this_disk"] = value_or_null(half_of_bound_here_);
    summary["pregate_vs_ondemand"] = value_or_null(best_ratio_);
    summary["pregate_vs_ondemand_worst"] = value_or_null(worst_ratio_);
    summary["pregate_vs_naive"] = value_or_null(best_over_naive_);
    summary["hit_rate_half"] = value_or_null(hit_rate_half_);
    if (errors_.empty()) return;
    summary["prediction_error"] = spread_of(errors_).median;
    summary["prediction_error_worst"] = spread_of(errors_).most;
  }

  // Hits of every policy on the trace, beside the best that there could be.
  Table policy_table() {
    Table table;
    table.name = "hits by policy, replayed (optimum: whoever is wanted the farthest ahead goes)";
    table.columns = {"in memory", "expected", "lru", "lfu", "least-stale", "optimum"};
    for (const double part : {0.1, 0.25, 0.5, 0.75}) {
      const size_t slots = setup_.slots_of(part);
      std::vector<Cell> row = {percent(part)};
      for (const ExpertPolicy policy : {ExpertPolicy::kExpected, ExpertPolicy::kLru,
                                        ExpertPolicy::kLfu, ExpertPolicy::kLeastStale})
        row.push_back(percent(replay(trace_, slots, policy, true).hit_rate()));
      row.push_back(percent(replay_optimum(trace_, slots, true).hit_rate()));
      if (part == 0.5 && !hit_rate_half_)
        hit_rate_half_ = replay(trace_, slots, ExpertPolicy::kExpected, true).hit_rate();
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  MixtureSetup& setup_;
  Report& report_;
  Table table_;
  text::ExpertTrace trace_;
  LayerParts parts_;
  double resident_s_ = 0;
  std::vector<double> errors_;  // of predictions
  std::optional<double> half_speed_, half_of_bound_, half_of_bound_worst_, half_speed_here_,
      half_of_bound_here_, hit_rate_half_, best_ratio_, worst_ratio_, best_over_naive_;
};

// What to measure.
struct Parts {
  bool memory = false, decode = false, server = false;

  // kInvalidInput: a name that is none.
  Parts(const std::vector<std::string>& only, bool quick) {
    if (only.empty()) {
      memory = decode = true;
      server = !quick;
    }
    for (const std::string& name : only) {
      if (name != "memory" && name != "decode" && name != "server")
        fail(ErrorKind::kInvalidInput,
             "'{}' is no part of this bench. Parts are memory, decode, server.", name);
      (name == "memory" ? memory : name == "decode" ? decode : server) = true;
    }
  }
};

}  // namespace

Report run_megrez2(const BenchOptions& options) {
  const Parts parts(options.megrez2.only, options.quick);
  Report report;
  report.bench = "megrez2";
  report.notes.push_back(
      "Decoding, medians; every setting's logits equal those with all experts in memory.\n"
      "An emulated disk has the published model's ratio of an expert's read to a layer's time and, "
      "like a disk's\nown transfers, takes no core's time for copying; this machine's is read past "
      "the page cache.");
  const size_t threads = *std::max_element(options.threads.begin(), options.threads.end());
  ThreadPool pool(threads);
  WorkFolder work;
  const bool own = std::none_of(options.models.begin(), options.models.end(), [](const auto& path) {
    return formats::open_checkpoint(path)->get_int("expert_count").value_or(0) > 0;
  });
  fs::path shared, unshared;
  if (own) {
    const auto write = [&](const char* shape) {
      const fs::path path = work.path / fmt::format("{}.gguf", shape);
      Progress progress(fmt::format("Writing {}", shape), 0, "bytes");
      formats::write_random_model(path, shape, formats::quant_mix("q4_0"), 1, pool.cores(),
                                  options.stop, progress.callback());
      return path;
    };
    shared = write("megrez2-eighth");
    if (parts.decode) unshared = write("dots1-eighth");
  } else {
    shared = options.models.front();
    if (options.models.size() > 1) unshared = options.models[1];
  }
  const fs::path pack = work.path / "pack";
  double shared_s = 0;
  if (memory_is_limited(plan_of_mixture(shared))) {
    MixtureSetup setup(options, shared, pack, pool.cores());
    bench_limited(setup, report);
    return report;
  }
  if (parts.memory) bench_memory(options, shared, pack, pool.cores(), report);
  if (parts.server) bench_server(options, shared, pack, threads, report);
  if (!parts.decode) return report;
  {
    MixtureSetup setup(options, shared, pack, pool.cores());
    DecodeTable decoding(setup, report);
    decoding.run();
    shared_s = decoding.resident_seconds();
    setup.mixture.experts().use(nullptr);
  }
  if (!unshared.empty()) bench_unshared(options, shared, unshared, pool.cores(), shared_s, report);
  return report;
}

}  // namespace weft::bench
