// What was tuned, kept for the next start. A JSON file:
//   {"weft_overlap_tunings": 1, "tunings": {KEY: {"group_ends": [4, 12, 32], "collective_ms": 37.2}}}
// KEY says in words which hosts, thread counts and product it is for; the link is recognised by how
// long the collective takes (OverlappedTeam measures it again).
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "parallel/flash_overlap/trial.h"

namespace weft::parallel::flash_overlap {

// Of one thread of one process: rank 0's.
class TuningFile {
 public:
  using Notice = std::function<void(const std::string&)>;
  // An empty path: nothing is kept. `notice` gets a sentence when the file is not usable (damaged, or
  // another version's); it is then neither read nor written.
  TuningFile(std::filesystem::path path, Notice notice);

  std::optional<Tuning> find(const std::string& key) const;
  // Into the file at once, which appears whole or not at all. One that cannot be written is noticed,
  // and given up.
  void add(const std::string& key, const Tuning& tuning);

 private:
  void give_up(const std::string& why);

  std::filesystem::path path_;
  Notice notice_;
  std::map<std::string, Tuning> tunings_;
};

}  // namespace weft::parallel::flash_overlap
