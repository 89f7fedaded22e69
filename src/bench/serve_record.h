// What `bench serve` has measured so far, in a file: a bench of an hour can be interrupted, and
// goes on where it was, at the same rates and for the same promises.
//
//   {"format": "weft bench serve record", "version": 1, "setting": "...", "capacity": 5.2,
//    "unloaded": {"ttft_s", "tpot_s"},
//    "runs": [{"rate", "seed", "system", "seconds", "span_s", "cpu_seconds",
//              "requests": [[answered, ttft_s, tpot_s, longest_gap_s, tokens], ...]}]}
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "bench/serve_run.h"

namespace weft::bench {

class ServeRecord {
 public:
  // An empty path keeps nothing. `setting`: what has to be the same for runs to belong together.
  // kInvalidInput: the file is of another setting, or none of these.
  ServeRecord(std::filesystem::path path, const std::string& setting);

  struct Scale {
    double capacity;
    Slo unloaded;
  };
  std::optional<Scale> scale() const;
  void set_scale(const Scale& scale);

  std::optional<LoadOutcome> find(double rate, uint64_t seed, const std::string& system) const;
  void add(double rate, uint64_t seed, const std::string& system, const LoadOutcome& outcome);

 private:
  void save() const;
  std::filesystem::path path_;
  nlohmann::ordered_json json_;
};

}  // namespace weft::bench
