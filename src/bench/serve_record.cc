#include "bench/serve_record.h"

#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace weft::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "weft bench serve record";

Json to_json(const LoadOutcome& outcome) {
  Json requests = Json::array();
  for (const RequestOutcome& r : outcome.requests)
    requests.push_back({r.answered, r.ttft_s, r.tpot_s, r.longest_gap_s, r.tokens});
  return {{"seconds", outcome.seconds},
          {"span_s", outcome.span_s},
          {"cpu_seconds", outcome.cpu_seconds},
          {"requests", std::move(requests)}};
}

LoadOutcome outcome_from(const Json& run) {
  LoadOutcome outcome{.requests = {},
                      .seconds = run.at("seconds"),
                      .span_s = run.at("span_s"),
                      .cpu_seconds = run.at("cpu_seconds")};
  for (const Json& r : run.at("requests"))
    outcome.requests.push_back({.answered = r.at(0),
                                .ttft_s = r.at(1),
                                .tpot_s = r.at(2),
                                .longest_gap_s = r.at(3),
                                .tokens = r.at(4)});
  return outcome;
}

}  // namespace

ServeRecord::ServeRecord(std::filesystem::path path, const std::string& setting)
    : path_(std::move(path)) {
  json_ = {{"format", kFormat}, {"version", 1}, {"setting", setting}, {"runs", Json::array()}};
  if (path_.empty() || !std::filesystem::exists(path_)) return;
  const Json found = Json::parse(read_file(path_), nullptr, false);
  if (!found.is_object() || found.value("format", "") != kFormat ||
      found.value("version", 0) != 1 || !found.contains("runs"))
    fail(ErrorKind::kInvalidInput, "{}: is no record of bench serve: name another file to --resume",
         path_.string());
  if (found.value("setting", "") != setting)
    fail(ErrorKind::kInvalidInput,
         "{}: was recorded with other options ({}), but these are: {}. Give the same ones, or "
         "another file to --resume.",
         path_.string(), found.value("setting", ""), setting);
  json_ = found;
}

std::optional<ServeRecord::Scale> ServeRecord::scale() const {
  if (!json_.contains("capacity")) return std::nullopt;
  return Scale{json_.at("capacity"),
               {json_.at("unloaded").at("ttft_s"), json_.at("unloaded").at("tpot_s")}};
}

void ServeRecord::set_scale(const Scale& scale) {
  json_["capacity"] = scale.capacity;
  json_["unloaded"] = {{"ttft_s", scale.unloaded.ttft_s}, {"tpot_s", scale.unloaded.tpot_s}};
  save();
}

std::optional<LoadOutcome> ServeRecord::find(double rate, uint64_t seed,
                                             const std::string& system) const {
  for (const Json& run : json_.at("runs"))
    if (run.at("rate") == rate && run.at("seed") == seed && run.at("system") == system)
      return outcome_from(run);
  return std::nullopt;
}

void ServeRecord::add(double rate, uint64_t seed, const std::string& system,
                      const LoadOutcome& outcome) {
  Json run = {{"rate", rate}, {"seed", seed}, {"system", system}};
  run.update(to_json(outcome));
  json_["runs"].push_back(std::move(run));
  save();
}

void ServeRecord::save() const {
  if (path_.empty()) return;
  AtomicFile file(path_);
  file.write(json_.dump());
  file.commit();
}

}  // namespace weft::bench
