#include "train/example.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "formats/chat.h"

namespace weft::train {
namespace {

using formats::Token;
using nlohmann::ordered_json;

void append(Example& example, std::span<const Token> tokens, bool learn) {
  example.tokens.insert(example.tokens.end(), tokens.begin(), tokens.end());
  example.learn.insert(example.learn.end(), tokens.size(), learn ? 1 : 0);
}

std::optional<Token> end_token(const formats::Tokenizer& tokenizer) {
  const auto& special = tokenizer.special();
  return special.eos ? special.eos : special.eot;
}

// Cuts what is too long; true if it was.
bool cut(Example& example, size_t context) {
  if (example.tokens.size() <= context + 1) return false;
  example.tokens.resize(context + 1);
  example.learn.resize(context + 1);
  return true;
}

bool learns_nothing(const Example& example) {
  return example.tokens.size() < 2 ||
         std::find(example.learn.begin() + 1, example.learn.end(), 1) == example.learn.end();
}

std::string token_text(const formats::Tokenizer& tokenizer, std::optional<Token> token) {
  return token ? std::string(tokenizer.text(*token)) : std::string();
}

// The conversation as the template words it. What the assistant says is what an answer adds to the
// text that ends with the opening of the assistant's turn.
Example chat_example(const ordered_json& messages, const ExampleFormat& format,
                     const formats::ChatTemplate& chat_template) {
  std::vector<formats::ChatMessage> turns;
  const auto& special = format.tokenizer->special();
  formats::ChatOptions options;
  options.bos_token = token_text(*format.tokenizer, special.bos);
  options.eos_token = token_text(*format.tokenizer, special.eos);
  Example example;
  std::string done;
  const auto add_until = [&](const std::string& text, bool learn) {
    if (!text.starts_with(done))
      fail(
          ErrorKind::kInvalidInput,
          "the chat template changes earlier turns when a later one is added, so it cannot be told "
          "which text is the assistant's. Use \"prompt\" and \"completion\"");
    append(example,
           format.tokenizer->encode(std::string_view(text).substr(done.size()),
                                    {.add_special = false, .parse_special = true}),
           learn);
    done = text;
  };
  for (const ordered_json& message : messages) {
    const bool by_assistant = message["role"] == "assistant";
    if (by_assistant) {
      options.add_generation_prompt = true;
      add_until(formats::render_chat(chat_template, turns, options), false);
    }
    turns.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
    options.add_generation_prompt = false;
    if (by_assistant) add_until(formats::render_chat(chat_template, turns, options), true);
  }
  return example;
}

// A line of a JSONL file. Errors name no place: the caller does.
Example line_example(std::string_view line, const ExampleFormat& format,
                     const formats::ChatTemplate* chat_template) {
  ordered_json object;
  try {
    object = ordered_json::parse(line);
  } catch (const ordered_json::parse_error& error) {
    fail(ErrorKind::kInvalidInput, "not JSON from byte {} on; a line holds one whole object",
         error.byte);
  }
  if (!object.is_object())
    fail(ErrorKind::kInvalidInput, "not a JSON object; a line holds one whole object");
  const auto text_of = [&](const char* key) -> std::string {
    const auto it = object.find(key);
    if (it == object.end() || !it->is_string())
      fail(ErrorKind::kInvalidInput, "\"{}\" is {}", key,
           it == object.end() ? "missing" : "no string");
    return it->get<std::string>();
  };
  if (object.contains("prompt") || object.contains("completion"))
    return make_example(text_of("prompt"), text_of("completion"), format);
  if (object.contains("text")) {
    Example example;
    append(example, format.tokenizer->encode(text_of("text"), {.parse_special = false}), true);
    if (const auto end = end_token(*format.tokenizer)) append(example, {{*end}}, true);
    return example;
  }
  const auto messages = object.find("messages");
  if (messages == object.end())
    fail(ErrorKind::kInvalidInput,
         "holds neither \"prompt\" and \"completion\", nor \"text\", nor \"messages\"");
  if (!messages->is_array() || messages->empty())
    fail(ErrorKind::kInvalidInput, "\"messages\" is no list of turns");
  for (const ordered_json& message : *messages)
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        !message.contains("content") || !message["content"].is_string())
      fail(ErrorKind::kInvalidInput,
           "a turn of \"messages\" is no {{\"role\": text, \"content\": text}}");
  if (chat_template == nullptr)
    fail(ErrorKind::kInvalidInput,
         "\"messages\" need a chat template, and the tokenizer comes without one");
  return chat_example(*messages, format, *chat_template);
}

FileExamples parse_text(std::string_view text, const ExampleFormat& format) {
  FileExamples out;
  const std::vector<Token> tokens = format.tokenizer->encode(text, {.parse_special = false});
  // Pieces overlap by a token, so that each but the first is foretold once.
  for (size_t first = 0; first + 1 < tokens.size(); first += format.context) {
    const size_t count = std::min(format.context + 1, tokens.size() - first);
    append(out.examples.emplace_back(), std::span(tokens).subspan(first, count), true);
  }
  return out;
}

class FilesSource final : public ExampleSource {
 public:
  FilesSource(std::vector<Example> examples, uint64_t seed)
      : examples_(std::move(examples)), seed_(seed) {}
  Example at(uint64_t index) const override {
    const uint64_t n = examples_.size(), epoch = index / n;
    return examples_[permuted(index % n, n, seed_ + epoch)];
  }
  uint64_t size() const override { return examples_.size(); }

 private:
  std::vector<Example> examples_;
  uint64_t seed_;
};

class TurnsSource final : public ExampleSource {
 public:
  explicit TurnsSource(std::vector<std::unique_ptr<ExampleSource>> sources)
      : sources_(std::move(sources)) {}
  Example at(uint64_t index) const override {
    return sources_[index % sources_.size()]->at(index / sources_.size());
  }
  uint64_t size() const override {
    uint64_t total = 0;
    for (const auto& source : sources_) {
      if (source->size() == 0) return 0;
      total += source->size();
    }
    return total;
  }

 private:
  std::vector<std::unique_ptr<ExampleSource>> sources_;
};

}  // namespace

uint64_t permuted(uint64_t index, uint64_t n, uint64_t key) {
  WEFT_ASSERT(index < n);
  if (n < 2) return index;
  // A Feistel network on an even number of bits, walked until it falls inside [0, n).
  const unsigned half = (static_cast<unsigned>(std::bit_width(n - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint32_t round = 0; round < 4; ++round) {
      const auto random =
          philox4x32({static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32), round, 2},
                     {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)});
      const uint64_t next = left ^ (random[0] & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= n);
  return index;
}

Example make_example(std::string_view prompt, std::string_view completion,
                     const ExampleFormat& format) {
  Example example;
  append(example, format.tokenizer->encode(prompt, {.parse_special = true}), false);
  append(example,
         format.tokenizer->encode(completion, {.add_special = false, .parse_special = true}), true);
  if (const auto end = end_token(*format.tokenizer)) append(example, {{*end}}, true);
  return example;
}

FileExamples parse_jsonl(std::string_view text, const std::string& name,
                         const ExampleFormat& format) {
  FileExamples out;
  std::optional<formats::ChatTemplate> chat_template;
  if (format.chat_template) chat_template.emplace(*format.chat_template);
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    try {
      Example example = line_example(line, format, chat_template ? &*chat_template : nullptr);
      out.num_cut += cut(example, format.context) ? 1 : 0;
      if (learns_nothing(example))
        fail(
            ErrorKind::kInvalidInput,
            "there is nothing to learn: {} tokens are kept, and the loss is on none of them. Leave "
            "it out, or raise 'context'",
            example.tokens.size());
      out.examples.push_back(std::move(example));
    } catch (const Error& error) {
      throw error.in(fmt::format("{}:{}", name, number));
    }
  }
  return out;
}

FileExamples read_examples(const std::string& path, const ExampleFormat& format) {
  const std::string extension = std::filesystem::path(path).extension();
  const std::string text = read_file(path, size_t{1} << 34);
  FileExamples out = extension == ".jsonl" || extension == ".json" ? parse_jsonl(text, path, format)
                                                                   : parse_text(text, format);
  if (out.examples.empty())
    fail(ErrorKind::kInvalidInput, "{}: holds no example to learn from", path);
  return out;
}

Sources open_sources(const std::vector<std::string>& names, const ExampleFormat& format,
                     uint64_t seed, const OpenTask& open_task) {
  constexpr std::string_view kTask = "task:";
  Sources out;
  std::vector<Example> of_files;
  std::vector<std::unique_ptr<ExampleSource>> sources;
  for (const std::string& name : names) {
    if (name.starts_with(kTask)) {
      sources.push_back(open_task(name.substr(kTask.size()), format, seed));
      continue;
    }
    FileExamples file = read_examples(name, format);
    out.num_cut += file.num_cut;
    std::move(file.examples.begin(), file.examples.end(), std::back_inserter(of_files));
  }
  out.num_file_examples = of_files.size();
  if (!of_files.empty())
    sources.push_back(std::make_unique<FilesSource>(std::move(of_files), seed));
  WEFT_ASSERT(!sources.empty());
  out.source = sources.size() == 1 ? std::move(sources.front())
                                   : std::make_unique<TurnsSource>(std::move(sources));
  return out;
}

}  // namespace weft::train
