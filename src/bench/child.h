// Runs another program and watches it: what it prints, when the first byte came, how much memory it
// took.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/interrupt.h"

namespace weft::bench {

struct ChildResult {
  int exit_code = 0;       // -signal if a signal ended it
  std::string out;         // its standard output
  std::string error_tail;  // the end of its standard error
  double seconds = 0;      // from start to end
  double seconds_to_output =
      0;  // from start to the first byte on standard output; `seconds` if none came
  size_t peak_memory_bytes = 0;  // resident
};

// `command`: program and arguments; its standard input is empty. kNotFound if it cannot be started.
// A requested stop ends the child and throws kCancelled.
ChildResult run_child(const std::vector<std::string>& command, StopToken stop);

}  // namespace weft::bench
