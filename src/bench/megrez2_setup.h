// What the tables of `weft bench megrez2` have in common: one loaded mixture, its pack, the disks
// that records are read from, and contestants that decode the same tokens in turns.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "bench/megrez2_naive.h"
#include "bench/megrez2_runner.h"
#include "bench/megrez2_time.h"
#include "text/expert_stream/expert_stream.h"

namespace weft::bench {

inline constexpr size_t kRoundTokens = 16;  // steps that a contestant decodes in its turn
inline constexpr size_t kWarmTokens = 32;   // steps that fill the slots before
inline constexpr size_t kPrefillTokens = 256;
inline constexpr size_t kSequences = 4;  // at once, in the table of batches

struct ExpertDisk {
  std::string name;
  double bytes_per_second = 0;  // of an emulated one; 0: the pack itself, read direct
  ReadTimes read;
};

struct StreamSetting {
  const char* name;
  ExpertReads reads;
  text::ExpertPolicy policy;
};
inline constexpr StreamSetting kStreamSettings[] = {
    {"pre-gated", ExpertReads::kPreGated, text::ExpertPolicy::kExpected},
    {"on demand", ExpertReads::kOnDemand, text::ExpertPolicy::kExpected},
    {"LRU only", ExpertReads::kPreGated, text::ExpertPolicy::kLru}};
inline constexpr StreamSetting kNaiveSetting = {"naive", ExpertReads::kNaive,
                                                text::ExpertPolicy::kExpected};

// A setting at a disk and a size of memory, beside all in memory in the same rounds.
struct StreamPoint {
  Spread seconds, of_resident;  // of a step; resident's seconds over these, round by round
  double hit_rate = 1, stall_s = 0, bytes = 0;  // of a step
};

// Of two contestants in the same rounds.
double median_ratio(const std::vector<double>& of, const std::vector<double>& over);

// kInvalidInput: the file is no mixture.
models::MemoryPlan plan_of_mixture(const std::filesystem::path& path);

class MixtureSetup {
 public:
  using Stream = std::unique_ptr<text::ExpertStream>;

  // Loads the model without its experts, and writes the pack if there is none.
  MixtureSetup(const BenchOptions& options, const std::filesystem::path& model,
               const std::filesystem::path& pack, CoreSet cores);

  void load_resident();          // all experts in memory
  void route(size_t sequences);  // of what follows: by the generator, or by the model itself
  Stream open(const ExpertDisk& disk, const StreamSetting& setting, size_t slots) const;
  Stream open_warm(const ExpertDisk& disk, const StreamSetting& setting, size_t slots);
  std::unique_ptr<NaiveExperts> open_warm_naive(const ExpertDisk& disk, size_t slots);
  // As many as two layers want at least: below that, a trace cannot be replayed exactly.
  size_t slots_of(double part) const;
  double decode_round(models::ExpertStore& store, size_t round);  // seconds per step
  // All in memory and the others in turns, `rounds` of them, each through the same tokens:
  // seconds per step, all in memory's first. kInvalidInput: their answers differ (a bug).
  std::vector<std::vector<double>> take_turns(const std::vector<models::ExpertStore*>& others);
  StreamPoint point_of(const text::ExpertCounters& done, const std::vector<double>& resident,
                       const std::vector<double>& seconds) const;
  // Direct reads of records here and there, by one reader and by two.
  ReadTimes measure_disk() const;
  // What remains of a miss when the disk takes no time: handing over, checking, and an expert that
  // is computed after the others instead of with them.
  double measure_core_seconds();

  const BenchOptions& options;
  const std::filesystem::path model, pack;
  const CoreSet cores;
  const size_t rounds;
  const models::MemoryPlan plan;
  BenchMixture mixture;
  std::unique_ptr<models::ExpertStore> resident;
  const size_t experts_per_token;
  const double record_bytes;
  const bool own_routing;  // a trained model's; random weights have no locality worth measuring
  std::optional<Routing> routing;
  size_t sequences = 1;

 private:
  std::unique_ptr<text::RecordSource> open_source(const ExpertDisk& disk) const;
  void warm(models::ExpertStore& store);

  uint64_t identity_;
};

}  // namespace weft::bench
