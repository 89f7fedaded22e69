// What a server is loaded with: when requests arrive and how long they are. Open loop: arrivals do
// not wait for answers, so that queues show.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace weft::bench {

struct LoadRequest {
  double arrival_s = 0;  // ascending
  size_t prompt_tokens = 1, answer_tokens = 1;
};

struct LoadOptions {
  // chat  prompt median 120 (sigma 1.2), answer median 150 (0.9), lognormal: ShareGPT's mean prompt
  // long  prompt median 1500 (0.5), answer median 60 (0.8)
  // math  prompt 70, answer median 400 (0.8)
  // mix   95 % chat, 5 % prompts of about 4,000
  std::string shape = "mix";
  // Instead: a trace of Azure (CSV) or Mooncake (JSON lines), its lengths in their order
  std::filesystem::path trace = {};
  double divide_lengths = 1;  // by this, at least 1 token each
  size_t max_tokens = 4096;   // prompt and answer of one request; longer prompts are cut
  double rate = 1;            // requests/s on average
  double arrival_cv = 1;      // coefficient of variation of the gaps: 1 Poisson, 2 bursty (gamma)
  double step = 1;            // the second half of the requests arrives so many times as fast
  size_t count = 100;
  uint64_t seed = 1;
};

// The same options, the same load; requests differ between seeds, not between rates. kInvalidInput,
// kNotFound.
std::vector<LoadRequest> make_load(const LoadOptions& options);

}  // namespace weft::bench
