#include "parallel/flash_overlap/tuning_file.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace weft::parallel::flash_overlap {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr const char* kMark = "weft_overlap_tunings";
constexpr size_t kMostBytes = size_t{16} << 20, kMostGroups = 4096,
                 kMostTiles = size_t{1} << 32;

// Throws nlohmann's exceptions for what is not there.
Tuning read_tuning(const Json& json) {
  Tuning tuning{.group_ends = json.at("group_ends").get<std::vector<size_t>>(),
                .collective_s = json.at("collective_ms").get<double>() * 1e-3};
  const auto& ends = tuning.group_ends;
  const bool rise = std::adjacent_find(ends.begin(), ends.end(), std::greater_equal<>()) == ends.end();
  if (ends.empty() || ends.size() > kMostGroups || ends.front() == 0 || !rise || ends.back() > kMostTiles ||
      !std::isfinite(tuning.collective_s) || tuning.collective_s < 0)
    fail(ErrorKind::kInvalidInput, "group_ends must rise, collective_ms be a time");
  return tuning;
}

}  // namespace

TuningFile::TuningFile(std::filesystem::path path, Notice notice)
    : path_(std::move(path)), notice_(std::move(notice)) {
  std::error_code none;
  if (path_.empty() || !std::filesystem::exists(path_, none)) return;
  try {
    const Json json = Json::parse(read_file(path_, kMostBytes));
    if (const int version = json.at(kMark).get<int>(); version != kVersion)
      fail(ErrorKind::kUnsupported, "it has version {}, this weft knows {}", version, kVersion);
    for (const auto& [key, value] : json.at("tunings").items())
      tunings_[key] = read_tuning(value);
  } catch (const std::exception& error) {
    tunings_.clear();
    give_up(fmt::format("not a file of tunings that this weft can use ({}). Products are tuned anew "
                        "and not kept; remove it to keep them again",
                        error.what()));
  }
}

void TuningFile::give_up(const std::string& why) {
  if (notice_) notice_(fmt::format("{}: {}", path_.string(), why));
  path_.clear();
}

std::optional<Tuning> TuningFile::find(const std::string& key) const {
  const auto it = tunings_.find(key);
  return it == tunings_.end() ? std::nullopt : std::optional(it->second);
}

void TuningFile::add(const std::string& key, const Tuning& tuning) {
  if (path_.empty()) return;
  tunings_[key] = tuning;
  Json all = Json::object();
  for (const auto& [name, t] : tunings_)
    all[name] = {{"group_ends", t.group_ends}, {"collective_ms", t.collective_s * 1e3}};
  try {
    if (path_.has_parent_path()) std::filesystem::create_directories(path_.parent_path());
    AtomicFile file(path_);
    file.write(Json{{kMark, kVersion}, {"tunings", all}}.dump(1) + "\n");
    file.commit();
  } catch (const std::exception& error) {
    give_up(fmt::format("tunings are not kept ({})", error.what()));
  }
}

}  // namespace weft::parallel::flash_overlap
