#include "base/memory.h"

#include <fstream>
#include <string>

namespace weft {

ResidentMemory resident_memory() {
  ResidentMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const auto value = [&](const char* key) -> size_t {
      return line.rfind(key, 0) == 0 ? std::stoull(line.substr(std::string(key).size())) << 10 : 0;
    };
    memory.anonymous_bytes += value("RssAnon:");
    memory.file_bytes += value("RssFile:");
  }
  return memory;
}

}  // namespace weft
