#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/answer_form_options.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "text/conversation.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  text::GenerateOptions generate;
  AnswerFormOptions form;
  VocabOptions vocab;
  std::string system;
};

// Lines of standard input. Those that arrive together (a paste) come as one message.
class Input {
 public:
  enum class Status { kLine, kEnd, kInterrupted };

  Status read(std::string& message) {
    message.clear();
    while (true) {
      const Status status = read_line();
      if (status != Status::kLine) return message.empty() ? status : Status::kLine;
      message += (message.empty() ? "" : "\n") + line_;
      // A terminal hands a paste over line by line, faster than anybody types.
      constexpr int kPasteGapMs = 20;
      if (pending_.find('\n') == std::string::npos && !(terminal_ && readable(kPasteGapMs)))
        return Status::kLine;
      if (!terminal_) return Status::kLine;
    }
  }

 private:
  static bool readable(int timeout_ms) {
    pollfd poll_stdin{STDIN_FILENO, POLLIN, 0};
    return poll(&poll_stdin, 1, timeout_ms) > 0 && (poll_stdin.revents & POLLIN) != 0;
  }

  Status read_line() {
    constexpr size_t kLongest = size_t{16} << 20;
    while (true) {
      if (const size_t end = pending_.find('\n'); end != std::string::npos) {
        line_ = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        return Status::kLine;
      }
      if (pending_.size() > kLongest)
        fail(ErrorKind::kInvalidInput, "a line of the input is longer than {} bytes", kLongest);
      char buffer[4096];
      const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
      if (count < 0 && errno == EINTR) return Status::kInterrupted;
      if (count < 0) fail(ErrorKind::kIo, "cannot read standard input");
      if (count > 0) {
        pending_.append(buffer, static_cast<size_t>(count));
        continue;
      }
      if (pending_.empty()) return Status::kEnd;
      pending_ += '\n';  // the last line of a file may lack it
    }
  }

  const bool terminal_ = isatty(STDIN_FILENO) == 1;
  std::string pending_, line_;
};

// What is ours and not the model's words goes to stderr, in colour on a terminal.
class Screen {
 public:
  void note(const std::string& text) const { print(colour_ ? "\033[2m" : "", text + "\n"); }
  void error(const std::string& text) const { print(colour_ ? "\033[31m" : "", text + "\n"); }
  void prompt() const {
    if (asks_) print(colour_ ? "\033[1;32m" : "", "> ");
  }

 private:
  void print(const char* style, const std::string& text) const {
    std::fprintf(stderr, "%s%s%s", style, text.c_str(), *style == '\0' ? "" : "\033[0m");
    std::fflush(stderr);
  }
  const bool asks_ = isatty(STDIN_FILENO) == 1;
  const bool colour_ = isatty(STDERR_FILENO) == 1;
};

void save(const text::Conversation& conversation, const std::string& path) {
  auto out = nlohmann::ordered_json::array();
  for (const text::ChatMessage& message : conversation.messages())
    out.push_back({{"role", message.role}, {"content", message.content}});
  AtomicFile file(path);
  file.write(out.dump(2) + "\n");
  file.commit();
}

class Chat {
 public:
  Chat(const Options& options, const text::TextModel& model, text::Decoder& decoder, StopToken stop)
      : options_(options),
        generate_(options.generate),
        model_(model),
        conversation_(model, decoder),
        stop_(stop) {
    generate_.vocab = model.choose_vocab({}, {});
    generate_.filter = load_filter(options.form, model, generate_.leading_space);
    conversation_.set_system(options.system);
  }

  void run() {
    screen_.note(model_.name() + ". /help lists commands; Ctrl-C stops an answer.");
    Input input;
    std::string message;
    while (true) {
      screen_.prompt();
      const Input::Status status = input.read(message);
      if (status == Input::Status::kEnd) break;
      if (status == Input::Status::kInterrupted) {
        screen_.note("\nCtrl-C again leaves, as does /exit.");
        screen_.prompt();
        if (input.read(message) != Input::Status::kLine) break;
        reset_interrupt();
      }
      if (message == "/exit" || message == "/quit") break;
      if (!message.empty()) handle(message);
    }
  }

 private:
  // An Error ends the turn, not the chat.
  void handle(const std::string& message) {
    try {
      message.front() == '/' ? command(message) : ask(message);
    } catch (const Error& error) {
      screen_.error(error.what());
    }
  }

  void command(const std::string& message) {
    const size_t space = message.find(' ');
    const std::string name = message.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : message.substr(space + 1);
    if (name == "/help") {
      screen_.note(
          "/system TEXT  what the model is told before the conversation; without TEXT: nothing\n"
          "/clear        forget the conversation\n"
          "/save FILE    write the conversation as JSON\n"
          "/exit         leave (so does Ctrl-D)");
    } else if (name == "/system") {
      conversation_.set_system(rest);
      screen_.note(rest.empty() ? "No system message." : "System message set.");
    } else if (name == "/clear") {
      conversation_.clear();
      screen_.note("Forgotten.");
    } else if (name == "/save") {
      if (rest.empty()) fail(ErrorKind::kInvalidInput, "/save needs the name of a file");
      save(conversation_, rest);
      screen_.note("Saved.");
    } else {
      fail(ErrorKind::kInvalidInput, "unknown command '{}'; /help lists them", name);
    }
  }

  void ask(const std::string& message) {
    model_.check_files();
    std::optional<Progress> progress;
    progress.emplace("Reading", 0, "tokens");
    const auto print = [&](std::string_view piece) {
      progress.reset();
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      if (std::fflush(stdout) != 0) fail(ErrorKind::kIo, "cannot write the answer to stdout");
      return true;
    };
    const text::Conversation::Turn turn =
        conversation_.ask(message, generate_, print, stop_, progress->callback());
    progress.reset();
    std::fputc('\n', stdout);
    std::fflush(stdout);
    report(turn);
    reset_interrupt();
  }

  void report(const text::Conversation::Turn& turn) const {
    const text::Generation& g = turn.generation;
    if (turn.dropped_messages != 0)
      screen_.note(
          fmt::format("The context of {} tokens was full: the oldest {} messages were "
                      "dropped.",
                      model_.context_length(), turn.dropped_messages));
    if (g.reason == text::FinishReason::kCancelled) screen_.note("Stopped.");
    if (g.reason == text::FinishReason::kLength)
      screen_.note("The answer was cut off: the context or --max-tokens is used up.");
    if (options_.model.verbose)
      screen_.note(
          fmt::format("{} of {} prompt tokens were new; first token after {:.0f} ms, {} "
                      "tokens at {:.1f} tokens/s",
                      g.prompt_tokens - g.reused_prompt_tokens, g.prompt_tokens,
                      g.prefill_seconds * 1e3, g.num_sampled, g.decode_tokens_per_second()));
  }

  const Options& options_;
  text::GenerateOptions generate_;  // with the filter that the options name
  const text::TextModel& model_;
  text::Conversation conversation_;
  StopToken stop_;
  Screen screen_;
};

void chat(const Options& options, StopToken stop) {
  text::validate(options.generate.sampling);
  const LoadedModel loaded = load_model(options.model, options.vocab);
  if (!loaded.model.has_chat_template())
    fail(ErrorKind::kUnsupported,
         "{}: has no chat template, so it can hold no conversation. Use 'weft generate --raw' to "
         "continue a text.",
         loaded.model.name());
  const auto decoder = loaded.model.make_decoder(loaded.pool->cores());
  Chat(options, loaded.model, *decoder, stop).run();
}

}  // namespace

void add_chat(CLI::App& program, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("chat", "Hold a conversation in the terminal");
  command->add_option("--system", options->system,
                      "What the model is told before the conversation");
  command->add_option("--max-tokens", options->generate.max_tokens, "Longest answer, in tokens")
      ->default_str("what the context holds");
  add_model_options(*command, options->model, stop);
  add_sampling_options(*command, options->generate.sampling);
  add_answer_form_options(*command, options->form);
  add_vocab_options(*command, options->vocab, Profiles::kOne);
  add_seed_option(*command, options->generate.sampling);
  command->footer("Example: weft chat --model model.gguf --system \"Answer in one sentence.\"");
  command->callback([options, stop] { chat(*options, stop); });
}

}  // namespace weft::cli
