// What this process holds in memory now.
#pragma once

#include <cstddef>

namespace weft {

struct ResidentMemory {
  size_t anonymous_bytes = 0;  // its own: weights, caches, scratch
  size_t file_bytes = 0;       // pages of mapped files; the system takes them back when it needs room
};
ResidentMemory resident_memory();  // zeros where the system does not say

}  // namespace weft
