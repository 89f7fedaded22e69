// What this machine is: read from /proc and /sys, nothing measured (limits.h measures).
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace weft::bench {

struct Cache {
  int level = 0;
  std::string kind;      // "data", "instruction" or "unified"
  size_t bytes = 0;      // of one
  size_t shared_by = 1;  // cores that share one
};

struct Machine {
  std::string cpu;                    // model name; "unknown" where the system does not tell
  std::vector<std::string> features;  // of the instruction sets that matter to kernels
  size_t cores = 0;                   // that this process may use
  size_t numa_nodes = 1;
  std::vector<Cache> caches;   // of core 0
  size_t memory_bytes = 0;     // the machine's, or the control group's if that is less
  size_t available_bytes = 0;  // free or freeable now
  std::string huge_pages;      // transparent ones: "always", "madvise", "never", "unknown"
  std::string system;          // kernel name and release

  size_t last_level_cache_bytes() const;  // 0 if unknown
};

Machine read_machine();
nlohmann::ordered_json to_json(const Machine& machine);

// Resident memory of this process: the highest since reset_peak_memory() (since the start where the
// system does not let us reset it).
void reset_peak_memory();
size_t peak_memory_bytes();

}  // namespace weft::bench
