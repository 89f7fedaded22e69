// `weft bench megrez2`: a mixture of experts of which a part is in memory. All resident, pre-gated,
// on demand and least-recently-used take turns on the same tokens, on a disk that is slowed down
// until one expert's read takes as many layers' times as it does in the published model; each
// beside what the time model says.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "base/random.h"
#include "bench/bench.h"
#include "bench/machine.h"
#include "bench/megrez2_time.h"
#include "bench/peer.h"
#include "formats/checkpoint.h"
#include "formats/random_model.h"
#include "models/language_model.h"
#include "text/expert_stream/expert_memory.h"
#include "text/expert_stream/expert_trace.h"
#include "text/kv_cache.h"

namespace weft::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using models::Token;
using text::ExpertPolicy;

// Reads of one expert, in times that a layer computes: the published shape in 4.5 bit on this class
// of machine (1.8 ms a layer, 4.87 MB an expert), with disks of 1.2 and 3.5 GB/s.
struct Disk {
  const char* name;
  double reads_per_layer_time;
};
constexpr Disk kDisks[] = {{"1.2 GB/s", 2.26}, {"3.5 GB/s", 0.77}};
constexpr double kParts[] = {1.0, 0.9, 0.75, 0.5, 0.25};  // of all experts, in memory

// Files that the bench makes, gone with it.
struct WorkFolder {
  fs::path path = fs::temp_directory_path() / fmt::format("weft_bench_megrez2_{}", ::getpid());
  WorkFolder() { fs::create_directories(path); }
  ~WorkFolder() {
    std::error_code none;
    fs::remove_all(path, none);
  }
};

// Experts of adjacent tokens overlap in real text and not in random weights: the tokens of the
// sequence come from few, and stay for a while (persistence), so that experts are wanted again.
std::vector<Token> some_tokens(size_t count, size_t vocab_size) {
  constexpr size_t kTopic = 24;
  std::vector<Token> tokens;
  for (size_t i = 0; i < count; ++i) {
    const auto random = philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {11, 12});
    const size_t topic = i / 64 * 7 + random[0] % kTopic;
    tokens.push_back(static_cast<Token>(topic * 31 % vocab_size));
  }
  return tokens;
}

// A model that decodes the same tokens again and again.
class Runner {
 public:
  Runner(const fs::path& path, const CoreSet& cores, const models::OpenExperts& experts,
         const std::vector<Token>& tokens)
      : model_(models::load_language_model(formats::open_checkpoint(path), cores, {},
                                           models::HeadLoading::kNow, nullptr, experts)),
        cache_({.num_layers = model_->config().num_layers,
                .shape = model_->kv_shape(),
                .capacity_tokens = tokens.size() + 64}),
        workspace_(model_->make_workspace()),
        sequence_(cache_.create()),
        logits_(model_->config().vocab_size),
        tokens_(tokens) {}

  const models::LanguageModel& model() const { return *model_; }

  // Seconds per token.
  double decode(const CoreSet& cores) {
    cache_.truncate(sequence_, 0);
    const auto start = Clock::now();
    for (size_t i = 0; i < tokens_.size(); ++i) step(i, 1, cores);
    return std::chrono::duration<double>(Clock::now() - start).count() /
           static_cast<double>(tokens_.size());
  }
  const std::vector<float>& logits() const { return logits_; }

 private:
  void step(size_t first, size_t count, const CoreSet& cores) {
    WEFT_ASSERT(cache_.reserve(sequence_, count));
    const models::SequenceInput input{.sequence = sequence_,
                                      .tokens = std::span(tokens_).subspan(first, count),
                                      .first_position = first};
    model_->forward({&input, 1}, cache_, logits_.data(), *workspace_, cores);
  }

  std::unique_ptr<models::LanguageModel> model_;
  text::KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  text::SequenceId sequence_;
  std::vector<float> logits_;
  std::vector<Token> tokens_;
};

struct Setting {
  const char* name;
  bool prefetch;
  ExpertPolicy policy;
};
constexpr Setting kSettings[] = {{"pre-gated", true, ExpertPolicy::kExpected},
                                 {"on demand", false, ExpertPolicy::kExpected},
                                 {"LRU only", true, ExpertPolicy::kLru}};

struct Streamed {
  text::ExpertStream* stream = nullptr;
  std::unique_ptr<Runner> runner;
};

// One point: a part of the experts in memory, a setting, a disk.
struct Point {
  Spread seconds;                               // per token
  double hit_rate = 1, stall_s = 0, bytes = 0;  // per token
  double predicted_s = 0;
};

class MixtureBench {
 public:
  MixtureBench(const BenchOptions& options, const fs::path& model, const fs::path& pack,
               CoreSet cores, Report& report)
      : options_(options),
        model_(model),
        pack_(pack),
        cores_(cores),
        report_(report),
        checkpoint_(formats::open_checkpoint(model)),
        plan_(models::plan_memory(*checkpoint_, kernels::KvFormat::kF16, 1)) {
    if (plan_.num_experts == 0)
      fail(ErrorKind::kInvalidInput,
           "{}: is no mixture of experts. Name a megrez-moe file with --model, or none: the bench "
           "makes "
           "one.",
           model.string());
    tokens_ = some_tokens(options.quick ? 24 : 64, models::read_config(*checkpoint_).vocab_size);
  }

  void run() {
    record();
    Table table = new_table();
    for (const Disk& disk : kDisks) {
      for (const double part : kParts)
        if (!options_.quick || part == 1.0 || part == 0.75 || part == 0.5)
          run_part(disk, part, table);
      options_.stop.throw_if_stopped();
    }
    report_.tables.push_back(std::move(table));
    report_.tables.push_back(policy_table());
    report_.summary["half_memory_speed"] = value_or_null(half_memory_speed_);
    report_.summary["half_memory_of_bound"] = value_or_null(half_memory_of_bound_);
    report_.summary["pregate_vs_ondemand"] = value_or_null(best_ratio_);
    report_.summary["pregate_vs_ondemand_worst"] = value_or_null(worst_ratio_);
    report_.summary["hit_rate_half"] = value_or_null(hit_rate_half_);
    report_.summary["prediction_error"] = prediction_error_;
    report_.summary["resident_tokens_per_second"] = 1 / resident_s_;
  }

  double resident_seconds() const { return resident_s_; }

 private:
  static nlohmann::ordered_json value_or_null(const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  }

  Streamed open(const Setting& setting, size_t slots, double bytes_per_second,
                std::function<void(size_t, std::span<const uint32_t>)> on_visit = {}) {
    Streamed out;
    text::ExpertMemoryOptions how;
    how.policy = setting.policy;
    how.prefetch = setting.prefetch;
    how.pack = pack_;
    how.bytes_per_second = bytes_per_second;
    how.on_visit = std::move(on_visit);
    out.runner = std::make_unique<Runner>(
        model_, cores_, text::open_expert_stream(how, slots, model_, &out.stream), tokens_);
    return out;
  }

  // The trace, what a layer's parts take, and how fast the model is with everything in memory.
  void record() {
    {
      Streamed all = open(kSettings[1], plan_.num_experts, 0, [this](size_t layer, auto experts) {
        if (recording_) trace_.visits.push_back({layer, {experts.begin(), experts.end()}});
      });
      recording_ = true;
      all.runner->decode(cores_);
      recording_ = false;
      trace_.shape = all.stream->shape();
      want_ = all.runner->logits();
      resident_ = std::make_unique<Runner>(model_, cores_, models::OpenExperts{}, tokens_);
      resident_->decode(cores_);
      // With all experts in slots the streaming code should cost nothing.
      const std::function<double()> contestants[] = {[&] { return resident_->decode(cores_); },
                                                     [&] { return all.runner->decode(cores_); }};
      const auto seconds = alternate(options_.quick ? 3 : 5, contestants, options_.stop);
      resident_s_ = spread_of(seconds[0]).median;
      all_slots_s_ = spread_of(seconds[1]).median;
    }
    if (resident_->logits() != want_) fail(ErrorKind::kInvalidInput, "answers differ: a bug");
    parts_ = layer_parts(*checkpoint_, trace_, resident_s_);
    record_bytes_ = static_cast<double>(text::expert_slot_bytes(plan_));
    const text::TraceOverlap overlap = overlap_of(trace_);
    report_.notes.push_back(fmt::format(
        "{}: {} experts of {:.2f} MB, {:.0f} MB together; a layer computes for {:.2f} ms.\n"
        "All in memory: {:.1f} tokens/s; all in slots: {:.1f}.\n"
        "A visit shares {:.0f} % of its experts with the group's next layer, {:.0f} % with the "
        "token "
        "before, {:.0f} % by chance.",
        model_.stem().string(), plan_.num_experts, record_bytes_ * 1e-6,
        static_cast<double>(plan_.expert_bytes) * 1e-6, parts_.layer_s * 1e3, 1 / resident_s_,
        1 / all_slots_s_, overlap.within_group * 100, overlap.between_tokens * 100,
        overlap.by_chance * 100));
    report_.summary["all_slots_speed"] = resident_s_ / all_slots_s_;
    report_.summary["overlap_within_group"] = overlap.within_group;
    report_.summary["overlap_between_tokens"] = overlap.between_tokens;
  }

  static Table new_table() {
    Table table;
    table.name =
        "decoding with a part of the experts in memory, on a disk slowed down to the published "
        "ratio of "
        "read to layer";
    table.columns = {"disk like", "in memory", "setting",  "tokens/s",  "of resident",
                     "hits",      "wait ms",   "MB/token", "predicted", "measured/predicted"};
    return table;
  }

  // As many as two layers want at least: below that, a trace cannot be replayed exactly.
  size_t slots_of(double part) const {
    const double wanted = part * static_cast<double>(plan_.num_experts);
    return std::max(static_cast<size_t>(std::lround(wanted)), 2 * trace_.visits[0].experts.size());
  }

  void run_part(const Disk& disk, double part, Table& table) {
    const double rate = record_bytes_ / (disk.reads_per_layer_time * parts_.layer_s);
    const size_t slots = slots_of(part);
    std::vector<Streamed> streams;
    std::vector<text::ExpertCounters> before;
    std::vector<std::function<double()>> contestants;
    for (const Setting& setting : kSettings) {
      streams.push_back(open(setting, slots, rate));
      streams.back().runner->decode(cores_);  // fills the slots
      before.push_back(streams.back().stream->counters());
    }
    for (Streamed& streamed : streams)
      contestants.emplace_back([&] { return streamed.runner->decode(cores_); });
    const int rounds = options_.quick ? 1 : 2;
    const auto seconds = alternate(rounds, contestants, options_.stop, WarmUp::kNone);
    std::vector<Point> points;
    for (size_t i = 0; i < streams.size(); ++i) {
      if (streams[i].runner->logits() != want_)
        fail(ErrorKind::kInvalidInput, "answers differ from those with all in memory: a bug");
      points.push_back(measured(streams[i], before[i], seconds[i], kSettings[i], slots, rate));
      add_row(disk, part, kSettings[i], points.back(), table);
    }
    summarise(part, points, rate);
  }

  Point measured(const Streamed& streamed, const text::ExpertCounters& before,
                 const std::vector<double>& seconds, const Setting& setting, size_t slots,
                 double rate) {
    const text::ExpertCounters done = streamed.stream->counters() - before;
    const auto tokens = static_cast<double>(tokens_.size() * seconds.size());
    Point point;
    point.seconds = spread_of(seconds);
    point.hit_rate = done.hit_rate();
    point.stall_s = done.stall_s / tokens;
    point.bytes = static_cast<double>(done.bytes_read) / tokens;
    // The trace twice over: the first time fills the slots, as above.
    text::ExpertTrace twice = trace_;
    twice.visits.insert(twice.visits.end(), trace_.visits.begin(), trace_.visits.end());
    text::ReplayCounts counts = replay(twice, slots, setting.policy, setting.prefetch);
    counts.misses_of.erase(counts.misses_of.begin(),
                           counts.misses_of.begin() + static_cast<ptrdiff_t>(trace_.visits.size()));
    point.predicted_s =
        predict_seconds(trace_, counts.misses_of, parts_, record_bytes_ / rate, setting.prefetch) /
        static_cast<double>(tokens_.size());
    return point;
  }

  void add_row(const Disk& disk, double part, const Setting& setting, const Point& point,
               Table& table) const {
    const Spread speed = spread_of({1 / point.seconds.median});
    table.rows.push_back(
        {cell(std::string(disk.name)), percent(part), cell(std::string(setting.name)),
         cell(speed.median, 1), percent(resident_s_ / point.seconds.median),
         percent(point.hit_rate), cell(point.stall_s * 1e3, 2), cell(point.bytes * 1e-6, 2),
         cell(1 / point.predicted_s, 1), cell(point.seconds.median / point.predicted_s, 2)});
  }

  void summarise(double part, const std::vector<Point>& points, double rate) {
    const Point &ours = points[0], &naive = points[1];
    for (const Point& point : points)
      prediction_error_ =
          std::max(prediction_error_, std::abs(point.seconds.median / point.predicted_s - 1));
    const double ratio = naive.seconds.median / ours.seconds.median;
    if (!best_ratio_ || ratio > *best_ratio_) best_ratio_ = ratio;
    if (!worst_ratio_ || ratio < *worst_ratio_) worst_ratio_ = ratio;
    if (part != 0.5) return;
    const double speed = resident_s_ / ours.seconds.median;
    // The disk alone would take so long for what was read: no order of reads could be faster.
    const double bound = resident_s_ / std::max(resident_s_, ours.bytes / rate);
    // The faster disk is measured last.
    half_memory_speed_ = speed;
    half_memory_of_bound_ = speed / bound;
    hit_rate_half_ = ours.hit_rate;
  }

  // Hits of every policy on the trace, beside the best that there could be.
  Table policy_table() const {
    Table table;
    table.name = "hits by policy, replayed (optimum: whoever is wanted the farthest ahead goes)";
    table.columns = {"in memory", "expected", "lru", "lfu", "least-stale", "optimum"};
    for (const double part : {0.1, 0.25, 0.5, 0.75}) {
      const size_t slots = slots_of(part);
      std::vector<Cell> row = {percent(part)};
      for (const ExpertPolicy policy : {ExpertPolicy::kExpected, ExpertPolicy::kLru,
                                        ExpertPolicy::kLfu, ExpertPolicy::kLeastStale})
        row.push_back(percent(replay(trace_, slots, policy, true).hit_rate()));
      row.push_back(percent(replay_optimum(trace_, slots, true).hit_rate()));
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  const BenchOptions& options_;
  const fs::path model_, pack_;
  CoreSet cores_;
  Report& report_;
  std::shared_ptr<const formats::Checkpoint> checkpoint_;
  models::MemoryPlan plan_;
  std::vector<Token> tokens_;
  text::ExpertTrace trace_;
  bool recording_ = false;
  std::vector<float> want_;
  std::unique_ptr<Runner> resident_;
  LayerParts parts_;
  double record_bytes_ = 0, resident_s_ = 0, all_slots_s_ = 0, prediction_error_ = 0;
  std::optional<double> half_memory_speed_, half_memory_of_bound_, hit_rate_half_, best_ratio_,
      worst_ratio_;
};

// A mixture of the same active size whose layers share nothing: what its experts take, how fast it
// is with as many bytes of slots, and llama.cpp on the same file.
void bench_unshared(const BenchOptions& options, const fs::path& shared, const fs::path& unshared,
                    const CoreSet& cores, double shared_s, Report& report) {
  const auto plan_of = [](const fs::path& path) {
    return models::plan_memory(*formats::open_checkpoint(path), kernels::KvFormat::kF16, 1);
  };
  const models::MemoryPlan ours = plan_of(shared), theirs = plan_of(unshared);
  const std::vector<Token> tokens = some_tokens(
      options.quick ? 32 : 96, models::read_config(*formats::open_checkpoint(unshared)).vocab_size);
  Runner runner(unshared, cores, {}, tokens);
  runner.decode(cores);
  std::optional<Peer> peer;
  if (options.peer) peer.emplace(*options.peer, options.stop);
  std::vector<std::function<double()>> contestants = {[&] { return runner.decode(cores); }};
  if (peer)
    contestants.emplace_back([&] {
      return 1 /
             peer->tokens_per_second(
                 {.model = unshared, .threads = cores.size(), .generated_tokens = tokens.size()},
                 "auto");
    });
  const auto seconds = alternate(options.quick ? 3 : 5, contestants, options.stop, WarmUp::kNone);
  const double unshared_s = spread_of(seconds[0]).median;
  Table table;
  table.name = "experts shared by three layers against experts of each layer's own, all in memory";
  table.columns = {"model", "experts MB", "tokens/s", "llama.cpp", "ours / peer's"};
  table.rows.push_back({cell(shared.stem().string()),
                        cell(static_cast<double>(ours.expert_bytes) * 1e-6, 0),
                        cell(1 / shared_s, 1), no_cell(), no_cell()});
  const double peer_s = peer ? spread_of(seconds[1]).median : 0;
  table.rows.push_back({cell(unshared.stem().string()),
                        cell(static_cast<double>(theirs.expert_bytes) * 1e-6, 0),
                        cell(1 / unshared_s, 1), peer ? cell(1 / peer_s, 1) : no_cell(),
                        peer ? cell(peer_s / unshared_s, 2) : no_cell()});
  report.tables.push_back(std::move(table));
  report.summary["shared_expert_memory"] =
      static_cast<double>(ours.expert_bytes) / static_cast<double>(theirs.expert_bytes);
  report.summary["vs_peer_moe"] =
      peer ? nlohmann::ordered_json(peer_s / unshared_s) : nlohmann::ordered_json(nullptr);
}

}  // namespace

Report run_megrez2(const BenchOptions& options) {
  Report report;
  report.bench = "megrez2";
  report.notes.push_back(
      "Decoding of one sequence, medians; every setting's logits equal those with all experts in "
      "memory.\n"
      "Synthetic locality: random weights, tokens that return. The disk is slowed down so that an "
      "expert's\nread takes as many layers' times as in the published model; its bytes are real.");
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
    unshared = write("dots1-eighth");
  } else {
    shared = options.models.front();
    if (options.models.size() > 1) unshared = options.models[1];
  }
  MixtureBench bench(options, shared, work.path / "pack", pool.cores(), report);
  bench.run();
  if (!unshared.empty())
    bench_unshared(options, shared, unshared, pool.cores(), bench.resident_seconds(), report);
  return report;
}

}  // namespace weft::bench
