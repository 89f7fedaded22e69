#include "base/terminal_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace weft {

bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }

void draw_line(const std::string& text) {
  fmt::print(stderr, "\r\033[K{}", text);
  std::fflush(stderr);
}

void clear_line() { draw_line(""); }

std::string minutes(double seconds) {
  const auto s = static_cast<long>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace weft
