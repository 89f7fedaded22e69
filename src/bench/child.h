// Runs another program and watches it: what it prints, when the first byte came, how much memory it
// took. Or lets it run beside us.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <memory>
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

// A program that runs until this goes. It ends with the thread that started it, too, however that
// ends.
class RunningChild {
 public:
  // `command`: as above. kNotFound, or kOutOfResources where the system gives no process.
  explicit RunningChild(const std::vector<std::string>& command);
  ~RunningChild();  // asks it to end; makes it, after two seconds
  RunningChild(const RunningChild&) = delete;
  RunningChild& operator=(const RunningChild&) = delete;

  pid_t pid() const { return pid_; }
  // Whether it has ended by itself; waits for that, or a signal to us, at most so long.
  bool ends_within(std::chrono::milliseconds patience) const;
  std::string last_words() const;  // the end of what it has printed, when it has ended

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> printed_;
  pid_t pid_ = 0;
  int pid_fd_ = -1;  // readable once it has ended
};

}  // namespace weft::bench
