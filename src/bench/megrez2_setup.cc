#include "bench/megrez2_setup.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <thread>

#include "base/buffer.h"
#include "base/error.h"
#include "base/random.h"
#include "base/seconds.h"
#include "formats/gguf.h"
#include "text/expert_stream/expert_records.h"
#include "text/expert_stream/record_source.h"

namespace weft::bench {
namespace {

bool is_random(const formats::Checkpoint& checkpoint) {
  const formats::GgufFile* const file = checkpoint.gguf();
  return file != nullptr && file->get_string("general.name").value_or("").starts_with("random ");
}

}  // namespace

double median_ratio(const std::vector<double>& of, const std::vector<double>& over) {
  std::vector<double> ratios;
  for (size_t r = 0; r < of.size(); ++r) ratios.push_back(of[r] / over[r]);
  return spread_of(ratios).median;
}

models::MemoryPlan plan_of_mixture(const std::filesystem::path& path) {
  auto plan = models::plan_memory(*formats::open_checkpoint(path), kernels::KvFormat::kF16, 1);
  if (plan.num_experts == 0)
    fail(ErrorKind::kInvalidInput,
         "{}: is no mixture of experts. Name one with --model, of megrez-moe or dots1.",
         path.string());
  return plan;
}

MixtureSetup::MixtureSetup(const BenchOptions& o, const std::filesystem::path& model_path,
                           const std::filesystem::path& pack_path, CoreSet core_set)
    : options(o),
      model(model_path),
      pack(pack_path),
      cores(core_set),
      rounds(o.quick ? 3 : 7),
      plan(plan_of_mixture(model_path)),
      mixture(model_path, kSequences, std::max(kPrefillTokens, kWarmTokens), core_set),
      experts_per_token(mixture.experts().table().experts_per_token),
      record_bytes(static_cast<double>(text::RecordTable(mixture.experts().table()).largest_bytes)),
      own_routing(!is_random(mixture.checkpoint())),
      identity_(text::model_identity(mixture.checkpoint(), mixture.experts().table())) {
  if (!std::filesystem::exists(pack))
    text::write_pack(pack, mixture.experts().table(), mixture.checkpoint(), cores, options.stop);
}

void MixtureSetup::load_resident() {
  resident = load_experts(mixture.experts().table(), mixture.checkpoint(), cores);
}

void MixtureSetup::route(size_t count) {
  ExchangedExperts& experts = mixture.experts();
  routing.emplace(
      experts.shape(), experts_per_token,
      RoutingOptions{.sequences = count, .tokens = kWarmTokens + rounds * kRoundTokens});
  experts.route(own_routing ? nullptr : &*routing);
  sequences = count;
}

std::unique_ptr<text::RecordSource> MixtureSetup::open_source(const ExpertDisk& disk) const {
  const text::RecordTable records(mixture.experts().table());
  return disk.bytes_per_second > 0
             ? text::open_emulated_disk(pack, records, identity_, disk.bytes_per_second)
             : text::open_pack_source(pack, records, identity_, text::ExpertIo::kDirect);
}

MixtureSetup::Stream MixtureSetup::open(const ExpertDisk& disk, const StreamSetting& setting,
                                        size_t slots) const {
  const models::ExpertTable& table = mixture.experts().table();
  return std::make_unique<text::ExpertStream>(
      table, text::RecordTable(table), open_source(disk),
      text::ExpertStreamOptions{.num_slots = slots,
                                .policy = setting.policy,
                                .prefetch = setting.reads == ExpertReads::kPreGated});
}

void MixtureSetup::warm(models::ExpertStore& store) {
  mixture.experts().use(&store);
  mixture.decode(kWarmTokens, sequences, 0, cores);
  mixture.experts().use(nullptr);
}

MixtureSetup::Stream MixtureSetup::open_warm(const ExpertDisk& disk, const StreamSetting& setting,
                                             size_t slots) {
  Stream stream = open(disk, setting, slots);
  warm(*stream);
  return stream;
}

std::unique_ptr<NaiveExperts> MixtureSetup::open_warm_naive(const ExpertDisk& disk, size_t slots) {
  const models::ExpertTable& table = mixture.experts().table();
  auto naive = std::make_unique<NaiveExperts>(table, text::RecordTable(table), open_source(disk),
                                              slots, kNaiveSetting.policy);
  warm(*naive);
  return naive;
}

size_t MixtureSetup::slots_of(double part) const {
  const double wanted = part * static_cast<double>(plan.num_experts);
  return std::max(static_cast<size_t>(std::lround(wanted)), 2 * sequences * experts_per_token);
}

double MixtureSetup::decode_round(models::ExpertStore& store, size_t round) {
  mixture.experts().use(&store);
  return mixture.decode(kRoundTokens, sequences, kWarmTokens + round * kRoundTokens, cores);
}

std::vector<std::vector<double>> MixtureSetup::take_turns(
    const std::vector<models::ExpertStore*>& others) {
  std::vector<models::ExpertStore*> stores = {resident.get()};
  stores.insert(stores.end(), others.begin(), others.end());
  std::vector<std::vector<std::vector<float>>> logits(stores.size());
  std::vector<size_t> round(stores.size(), 0);
  std::vector<std::function<double()>> contestants;
  for (size_t i = 0; i < stores.size(); ++i)
    contestants.emplace_back([&, i] {
      const double seconds = decode_round(*stores[i], round[i]++);
      logits[i].push_back(mixture.logits());
      return seconds;
    });
  auto seconds = alternate(static_cast<int>(rounds), contestants, options.stop, WarmUp::kNone);
  mixture.experts().use(nullptr);
  for (const auto& other : logits)
    if (other != logits[0])
      fail(ErrorKind::kInvalidInput, "answers differ from those with all in memory: a bug");
  return seconds;
}

StreamPoint MixtureSetup::point_of(const text::ExpertCounters& done,
                                   const std::vector<double>& all_in_memory,
                                   const std::vector<double>& seconds) const {
  const auto steps = static_cast<double>(rounds * kRoundTokens);
  std::vector<double> ratios;
  for (size_t r = 0; r < seconds.size(); ++r) ratios.push_back(all_in_memory[r] / seconds[r]);
  return {.seconds = spread_of(seconds),
          .of_resident = spread_of(ratios),
          .hit_rate = done.hit_rate(),
          .stall_s = done.stall_s / steps,
          .bytes = static_cast<double>(done.bytes_read) / steps};
}

ReadTimes MixtureSetup::measure_disk() const {
  using Clock = std::chrono::steady_clock;
  const text::RecordTable records(mixture.experts().table());
  const auto source = text::open_pack_source(pack, records, identity_, text::ExpertIo::kDirect);
  const size_t reads = options.quick ? 64 : 200;
  const auto seconds_per_read = [&](size_t readers) {
    const Clock::time_point start = Clock::now();
    std::vector<std::thread> threads;
    for (size_t r = 0; r < readers; ++r)
      threads.emplace_back([&, r] {
        Buffer room(records.largest_bytes, "a record of an expert");
        for (size_t i = r; i < reads; i += readers) {
          const auto random = philox4x32(
              {static_cast<uint32_t>(i), static_cast<uint32_t>(readers), 0, 0}, {31, 32});
          source->read(random[0] % records.layouts.size(), random[1] % records.experts_per_group,
                       room.data());
        }
      });
    for (std::thread& thread : threads) thread.join();
    return seconds_since(start) / static_cast<double>(reads);
  };
  ReadTimes read;
  read.latency_s = seconds_per_read(1);
  read.record_s = std::min(read.latency_s, seconds_per_read(2));
  return read;
}

double MixtureSetup::measure_core_seconds() {
  constexpr double kInstant = 1e15;  // bytes/s
  constexpr size_t kTimes = 4;       // a small difference of two long times
  const Stream stream = open_warm({"", kInstant, {}}, kStreamSettings[0], slots_of(0.5));
  const auto before = stream->counters();
  std::vector<double> more;
  for (size_t i = 0; i < kTimes; ++i) {
    const auto seconds = take_turns({stream.get()});
    for (size_t r = 0; r < rounds; ++r) more.push_back(seconds[1][r] - seconds[0][r]);
  }
  const auto done = stream->counters() - before;
  const double misses =
      static_cast<double>(done.misses) / static_cast<double>(kTimes * rounds * kRoundTokens);
  return std::max(0.0, spread_of(more).median / std::max(1.0, misses));
}

}  // namespace weft::bench
