// Runs the built `weft` program the way a user does, and gives back what it left.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace weft::tests {

struct Finished {
  int exit_code = 0;  // -signal if a signal ended it
  std::string out, err;
  size_t peak_memory_bytes = 0;  // resident; at least what the test itself had when it started it
};

// `arguments` without the program's name; `input` is its standard input. `environment` adds
// "NAME=value" lines to ours.
Finished run_weft(const std::vector<std::string>& arguments, std::string_view input = "",
                  const std::vector<std::string>& environment = {});
// The same of any program, by its path.
Finished run_program(const std::string& program, const std::vector<std::string>& arguments,
                     std::string_view input = "", const std::vector<std::string>& environment = {});

}  // namespace weft::tests
