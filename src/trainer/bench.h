// `weft train bench`: how fast a small model trains here, beside what its products could reach.
#pragma once

#include <cstddef>
#include <string>

namespace weft::trainer {

struct BenchOptions {
  std::string device = "auto", dtype = "bf16";
  size_t batch_tokens = 16384, sequence = 256;
  size_t threads = 0;  // 0: all cores
  size_t steps = 8;
  std::string json_file;
};

// A Llama of 5 million parameters (hidden 256, 6 layers, 8 heads, 4 of keys and values, MLPs of
// 704). Prints a table.
void bench(const BenchOptions& options);

}  // namespace weft::trainer
