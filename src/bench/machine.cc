#include "bench/machine.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/thread_pool.h"

namespace weft::bench {
namespace {

namespace fs = std::filesystem;

// First line of a /proc or /sys file; nothing where this system has no such file.
std::optional<std::string> first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// The value of "key : value" lines (/proc/cpuinfo, /proc/meminfo, /proc/self/status).
std::optional<std::string> field(const fs::path& path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t end = line.find_last_not_of(" \t", colon - 1) + 1;
    if (std::string_view(line).substr(0, end) != key) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return std::nullopt;
}

// "32768 kB", "32768K", "32M" or "1024" in bytes.
size_t to_bytes(const std::string& text) {
  std::istringstream in(text);
  size_t value = 0;
  char unit = ' ';
  in >> value >> unit;
  switch (unit) {
    case 'k':
    case 'K':
      return value << 10;
    case 'M':
      return value << 20;
    case 'G':
      return value << 30;
    default:
      return value;
  }
}

size_t bytes_field(const fs::path& path, std::string_view key) {
  return to_bytes(field(path, key).value_or("0"));
}

// "0-3,8" lists 5 cores.
size_t count_list(const std::string& list) {
  std::istringstream in(list);
  std::string range;
  size_t count = 0;
  while (std::getline(in, range, ',')) {
    const size_t dash = range.find('-');
    const size_t first = std::strtoul(range.c_str(), nullptr, 10);
    const size_t last =
        dash == std::string::npos ? first : std::strtoul(range.c_str() + dash + 1, nullptr, 10);
    if (last >= first) count += last - first + 1;
  }
  return count;
}

std::vector<Cache> read_caches() {
  std::vector<Cache> caches;
  for (int i = 0;; ++i) {
    const fs::path folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}", i);
    const auto level = first_line(folder / "level"), size = first_line(folder / "size");
    if (!level || !size) return caches;
    std::string kind = first_line(folder / "type").value_or("unified");
    std::transform(kind.begin(), kind.end(), kind.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    const size_t shared = count_list(first_line(folder / "shared_cpu_list").value_or("0"));
    caches.push_back({.level = std::atoi(level->c_str()),
                      .kind = std::move(kind),
                      .bytes = to_bytes(*size),
                      .shared_by = std::max<size_t>(shared, 1)});
  }
}

// The flags of /proc/cpuinfo that some kernel here or a reader of the table asks about.
constexpr const char* kFeatures[] = {
    "sse4_1",   "avx",         "f16c",        "fma",         "avx2",        "avx512f",  "avx512bw",
    "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512_vbmi", "avx_vnni", "amx_int8",
    "amx_bf16", "asimd",       "asimddp",     "i8mm",        "bf16",        "sve"};

std::vector<std::string> read_features() {
  std::string flags = field("/proc/cpuinfo", "flags").value_or("");
  if (flags.empty()) flags = field("/proc/cpuinfo", "Features").value_or("");  // aarch64
  flags = " " + flags + " ";
  std::vector<std::string> found;
  for (const char* feature : kFeatures)
    if (flags.find(fmt::format(" {} ", feature)) != std::string::npos) found.emplace_back(feature);
  return found;
}

// A container may be given less than the machine has.
size_t control_group_limit() {
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const auto line = first_line(path);
    if (line && *line != "max") return to_bytes(*line);
  }
  return SIZE_MAX;
}

std::string read_huge_pages() {
  const auto line = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!line) return "unknown";
  const size_t open = line->find('['), close = line->find(']');
  if (open == std::string::npos || close == std::string::npos) return "unknown";
  return line->substr(open + 1, close - open - 1);
}

size_t count_numa_nodes() {
  return std::max<size_t>(count_list(first_line("/sys/devices/system/node/online").value_or("0")),
                          1);
}

}  // namespace

size_t Machine::last_level_cache_bytes() const {
  size_t bytes = 0;
  for (const Cache& cache : caches)
    if (cache.kind != "instruction") bytes = std::max(bytes, cache.bytes);
  return bytes;
}

Machine read_machine() {
  Machine machine;
  machine.cpu = field("/proc/cpuinfo", "model name").value_or("unknown");
  machine.features = read_features();
  machine.cores = available_cores();
  machine.numa_nodes = count_numa_nodes();
  machine.caches = read_caches();
  const size_t limit = control_group_limit();
  machine.memory_bytes = std::min(bytes_field("/proc/meminfo", "MemTotal"), limit);
  machine.available_bytes = std::min(bytes_field("/proc/meminfo", "MemAvailable"), limit);
  machine.huge_pages = read_huge_pages();
  utsname system{};
  if (uname(&system) == 0) machine.system = fmt::format("{} {}", system.sysname, system.release);
  return machine;
}

nlohmann::ordered_json to_json(const Machine& machine) {
  nlohmann::ordered_json caches = nlohmann::ordered_json::array();
  for (const Cache& cache : machine.caches) {
    caches.push_back({{"level", cache.level},
                      {"kind", cache.kind},
                      {"bytes", cache.bytes},
                      {"shared_by", cache.shared_by}});
  }
  return {{"cpu", machine.cpu},
          {"features", machine.features},
          {"cores", machine.cores},
          {"numa_nodes", machine.numa_nodes},
          {"caches", std::move(caches)},
          {"memory_bytes", machine.memory_bytes},
          {"available_bytes", machine.available_bytes},
          {"huge_pages", machine.huge_pages},
          {"system", machine.system}};
}

void reset_peak_memory() {
  std::ofstream("/proc/self/clear_refs") << "5";  // resets VmHWM; see proc(5)
}

size_t peak_memory_bytes() { return bytes_field("/proc/self/status", "VmHWM"); }

}  // namespace weft::bench
