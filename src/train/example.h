// Where training examples come from: files, generators, and mixtures of them. Any example can be
// had by its index, and is the same each time, so that a run can go on exactly where it stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::train {

struct Example {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> learn;  // as many; 1: the loss counts how well this token is foretold
};

// Immutable, so thread-safe.
class ExampleSource {
 public:
  virtual ~ExampleSource() = default;
  // Any index: what has an end starts anew, in another order.
  virtual Example at(uint64_t index) const = 0;
  virtual uint64_t size() const = 0;  // 0: no end
};

// What turns text into examples.
struct ExampleFormat {
  const formats::Tokenizer* tokenizer = nullptr;
  std::optional<std::string> chat_template;  // for "messages"
  size_t context = 512;  // an example has at most one token more; longer ones are cut
};

// Examples of one file, in its order.
//   *.jsonl, *.json: a JSON object a line, {"prompt", "completion"}: the loss is on the completion
//                    and the end token; {"text"}: on all; {"messages": [{"role", "content"}]}: on
//                    what the assistant says
//   others:          UTF-8 text, cut into pieces of `context` tokens
// kInvalidInput says FILE:LINE and what is wrong there.
struct FileExamples {
  std::vector<Example> examples;
  size_t num_cut = 0;  // longer than context
};
FileExamples read_examples(const std::string& path, const ExampleFormat& format);
// The same of bytes (tests, fuzzing).
FileExamples parse_jsonl(std::string_view text, const std::string& name,
                         const ExampleFormat& format);

// A prompt and what is learnt to follow it, then the tokenizer's end token.
Example make_example(std::string_view prompt, std::string_view completion,
                     const ExampleFormat& format);

// "task:NAME?OPTIONS" becomes what `open_task` makes of "NAME?OPTIONS"; all files together are one
// source, shuffled anew in each epoch. Sources take turns.
using OpenTask = std::function<std::unique_ptr<ExampleSource>(
    const std::string& task, const ExampleFormat& format, uint64_t seed)>;
struct Sources {
  std::unique_ptr<ExampleSource> source;
  size_t num_file_examples = 0, num_cut = 0;
};
Sources open_sources(const std::vector<std::string>& names, const ExampleFormat& format,
                     uint64_t seed, const OpenTask& open_task);

// A permutation of [0, n), another for each key.
uint64_t permuted(uint64_t index, uint64_t n, uint64_t key);

}  // namespace weft::train
