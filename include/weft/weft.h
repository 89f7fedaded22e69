// Weft as a library: load a language model, give it a prompt or a conversation, get text as it
// comes.
//
//   weft::Model model("SmolLM2-135M-Instruct.Q4_1.gguf");
//   model.chat({{"user", "Why is the sky blue?"}}, {.max_tokens = 200},
//              [](std::string_view piece) { std::cout << piece << std::flush; return true; });
//
// Find it with `find_package(weft)` and link `weft::weft`. Whatever goes wrong is thrown as a
// std::runtime_error whose message says what, where, what was expected and what to do next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#define WEFT_API __attribute__((visibility("default")))

namespace weft {

struct ModelOptions {
  size_t threads = 0;  // 0: all cores that this process may use
  size_t context = 0;  // tokens of a prompt with its answer; 0: the model's, at most 4096
};

struct AnswerOptions {
  float temperature = 0.8f;  // 0: the likeliest token always
  int top_k = 40;            // 0: off
  float top_p = 0.95f;       // 1: off
  float min_p = 0.05f;       // 0: off
  float repetition_penalty = 1.0f;
  uint64_t seed = 0;  // the same seed gives the same answer, on any number of threads
  size_t max_tokens = SIZE_MAX;
  std::vector<std::string> stop = {};  // the answer ends before the first of these
};

struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

enum class Finish {
  kStop,       // the model ended its answer, or a stop string appeared
  kLength,     // max_tokens, or the context is full
  kCancelled,  // the callback asked to stop
};

struct Answer {
  std::string text;
  Finish finish = Finish::kStop;
  size_t prompt_tokens = 0;
  size_t answer_tokens = 0;
  double seconds_to_first_token = 0;
  double tokens_per_second = 0;  // of the answer, after its first token
};

// Gets each piece of an answer, whole UTF-8 characters. Return false to end the answer.
using TextCallback = std::function<bool(std::string_view piece)>;

// A model in memory. One thread at a time may use it. A conversation that goes on keeps what it has
// computed: chat() with one more message reads the new part only.
class WEFT_API Model {
 public:
  // A .gguf file, or a Hugging Face folder.
  explicit Model(const std::string& path, const ModelOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // Continues a text.
  Answer generate(std::string_view prompt, const AnswerOptions& options = {},
                  const TextCallback& on_text = {});
  // Answers the last message, in the form that the model was trained on.
  Answer chat(const std::vector<Message>& messages, const AnswerOptions& options = {},
              const TextCallback& on_text = {});

  std::vector<int32_t> tokenize(std::string_view text) const;
  std::string detokenize(const std::vector<int32_t>& tokens) const;

  bool can_chat() const;  // the model has a chat template
  size_t context_length() const;
  size_t vocab_size() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft
