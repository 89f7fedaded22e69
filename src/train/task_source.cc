#include "train/task_source.h"

#include <array>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "formats/chat.h"
#include "tasks/reason.h"

namespace weft::train {
namespace {

using formats::Token;

// What stands around a question: the marks of the chat template, where the tokenizer comes with
// one; else what every text begins with.
struct Around {
  std::vector<Token> before, after;
};

Around around_question(const ExampleFormat& format) {
  const formats::Tokenizer& tokenizer = *format.tokenizer;
  if (!format.chat_template) return {tokenizer.encode(""), {}};
  constexpr std::string_view kQuestion = "Let";
  const auto text = [&](std::optional<Token> token) {
    return token ? std::string(tokenizer.text(*token)) : std::string();
  };
  formats::ChatOptions options;
  options.bos_token = text(tokenizer.special().bos);
  options.eos_token = text(tokenizer.special().eos);
  const std::array turns = {formats::ChatMessage{"user", std::string(kQuestion)}};
  const std::string chat =
      formats::render_chat(formats::ChatTemplate(*format.chat_template), turns, options);
  const size_t at = chat.find(kQuestion);
  if (at == std::string::npos)
    fail(ErrorKind::kUnsupported, "the chat template does not show a question as it is asked");
  const auto encode = [&](std::string_view part) {
    return tokenizer.encode(part, {.add_special = false, .parse_special = true});
  };
  return {encode(std::string_view(chat).substr(0, at)),
          encode(std::string_view(chat).substr(at + kQuestion.size()))};
}

// Problems of tasks/reason.h. Their texts are put together from few pieces, each of which is one
// token of the reasoners' tokenizer: then no text is made at all.
class ReasonSource final : public ExampleSource {
 public:
  ReasonSource(std::vector<tasks::ReasonOptions> levels, tasks::ReasonSplit split,
               const ExampleFormat& format, uint64_t seed)
      : options_(std::move(levels)), split_(split), format_(format), seed_(seed) {
    around_ = around_question(format);
    for (const std::string& piece : tasks::reason_pieces()) {
      const auto ids =
          format.tokenizer->encode(piece, {.add_special = false, .parse_special = false});
      if (ids.size() == 1) piece_tokens_.push_back(ids.front());
    }
    if (piece_tokens_.size() != tasks::reason_pieces().size()) piece_tokens_.clear();
    // A tokenizer may know all pieces and cut their sequence otherwise.
    if (!piece_tokens_.empty() && from_pieces(0).tokens != from_text(0).tokens)
      piece_tokens_.clear();
  }

  Example at(uint64_t index) const override {
    Example example = piece_tokens_.empty() ? from_text(index) : from_pieces(index);
    if (example.tokens.size() > format_.context + 1) {
      example.tokens.resize(format_.context + 1);
      example.learn.resize(format_.context + 1);
    }
    return example;
  }
  uint64_t size() const override { return 0; }

 private:
  tasks::ReasonPieces write(uint64_t index) const {
    const auto& options = options_[index % options_.size()];
    return tasks::write_reason(tasks::make_reason(options, split_, seed_, index), seed_, index);
  }

  // The loss is on the completion and the end token.
  Example example_of(const std::vector<Token>& prompt, const std::vector<Token>& completion) const {
    Example example;
    for (const std::vector<Token>* part : {&around_.before, &prompt, &around_.after})
      example.tokens.insert(example.tokens.end(), part->begin(), part->end());
    example.learn.assign(example.tokens.size(), 0);
    example.tokens.insert(example.tokens.end(), completion.begin(), completion.end());
    if (const auto end = format_.tokenizer->special().eos) example.tokens.push_back(*end);
    example.learn.resize(example.tokens.size(), 1);
    return example;
  }

  Example from_text(uint64_t index) const {
    const tasks::ReasonPieces pieces = write(index);
    const auto encode = [&](const std::vector<uint16_t>& part) {
      return format_.tokenizer->encode(tasks::join_pieces(part),
                                       {.add_special = false, .parse_special = false});
    };
    return example_of(encode(pieces.prompt), encode(pieces.completion));
  }

  Example from_pieces(uint64_t index) const {
    const tasks::ReasonPieces pieces = write(index);
    const auto tokens = [&](const std::vector<uint16_t>& part) {
      std::vector<Token> out;
      for (const uint16_t piece : part) out.push_back(piece_tokens_[piece]);
      return out;
    };
    return example_of(tokens(pieces.prompt), tokens(pieces.completion));
  }

  std::vector<tasks::ReasonOptions> options_;
  tasks::ReasonSplit split_;
  ExampleFormat format_;
  uint64_t seed_;
  Around around_;
  std::vector<Token> piece_tokens_;  // by piece; empty: the tokenizer has no token for some
};

}  // namespace

std::unique_ptr<ExampleSource> open_task(const std::string& task, const ExampleFormat& format,
                                         uint64_t seed) {
  const size_t question = task.find('?');
  const std::string name = task.substr(0, question);
  if (name != "reason")
    fail(ErrorKind::kInvalidInput, "task:{}: there is no task '{}'; there is: reason", task, name);
  std::vector<tasks::ReasonOptions> levels;
  tasks::ReasonSplit split = tasks::ReasonSplit::kTrain;
  std::string rest = question == std::string::npos ? "" : task.substr(question + 1);
  const auto next = [](std::string& text, char separator) {
    const size_t end = text.find(separator);
    const std::string first = text.substr(0, end);
    text = end == std::string::npos ? "" : text.substr(end + 1);
    return first;
  };
  while (!rest.empty()) {
    const std::string option = next(rest, '&');
    const size_t equals = option.find('=');
    const std::string key = option.substr(0, equals);
    std::string value = equals == std::string::npos ? "" : option.substr(equals + 1);
    try {
      if (key == "level") {
        while (!value.empty()) levels.push_back(tasks::reason_options(next(value, ',')));
      } else if (key == "split") {
        split = tasks::reason_split(value);
      } else {
        fail(ErrorKind::kInvalidInput, "there is no option '{}'; there are level and split", key);
      }
    } catch (const Error& error) {
      throw error.in("task:" + task);
    }
  }
  if (levels.empty()) levels = {tasks::options_of(tasks::ReasonLevel::kMedium)};
  return std::make_unique<ReasonSource>(std::move(levels), split, format, seed);
}

}  // namespace weft::train
