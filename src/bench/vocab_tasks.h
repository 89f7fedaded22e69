// Prompts for `weft bench vocab`: five tasks whose answers use few words of a vocabulary, generated
// from lists of names, numbers and passages, the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weft::bench {

struct VocabTask {
  std::string name;
  std::vector<std::string> prompts;
};

// Extraction from records, one-sentence summaries of passages (out of copyright), rewriting of
// sentences, small sums with their steps, short Python functions. No two prompts of a task are the
// same; there are a thousand of each at least.
std::vector<VocabTask> vocab_tasks(size_t prompts_per_task, uint64_t seed);
std::vector<std::string> vocab_task_names();

}  // namespace weft::bench
