#include "weft/weft.h"

#include <utility>

#include "base/thread_pool.h"
#include "text/generate.h"
#include "text/text_model.h"

namespace weft {
namespace {

text::GenerateOptions translate(const AnswerOptions& options) {
  text::GenerateOptions out;
  out.sampling.temperature = options.temperature;
  out.sampling.top_k = options.top_k;
  out.sampling.top_p = options.top_p;
  out.sampling.min_p = options.min_p;
  out.sampling.repetition_penalty = options.repetition_penalty;
  out.sampling.seed = options.seed;
  out.max_tokens = options.max_tokens;
  out.stop = options.stop;
  return out;
}

Finish translate(text::FinishReason reason) {
  switch (reason) {
    case text::FinishReason::kStop:
      return Finish::kStop;
    case text::FinishReason::kLength:
      return Finish::kLength;
    case text::FinishReason::kCancelled:
      return Finish::kCancelled;
  }
  return Finish::kStop;
}

}  // namespace

struct Model::State {
  ThreadPool pool;
  text::TextModel model;
  std::unique_ptr<text::Decoder> decoder;

  State(const std::string& path, const ModelOptions& options)
      : pool(options.threads == 0 ? available_cores() : options.threads),
        model(text::TextModel::load(path, {.context = options.context}, pool.cores())),
        decoder(model.make_decoder(pool.cores())) {}

  Answer answer(const std::vector<text::Token>& prompt, const text::GenerateOptions& options,
                const TextCallback& on_text) {
    text::Generation g = text::generate(*decoder, model.tokenizer(), prompt, options, on_text);
    return {.text = std::move(g.text),
            .finish = translate(g.reason),
            .prompt_tokens = g.prompt_tokens,
            .answer_tokens = g.num_sampled,
            .seconds_to_first_token = g.prefill_seconds,
            .tokens_per_second = g.decode_tokens_per_second()};
  }
};

Model::Model(const std::string& path, const ModelOptions& options)
    : state_(std::make_unique<State>(path, options)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

Answer Model::generate(std::string_view prompt, const AnswerOptions& options,
                       const TextCallback& on_text) {
  text::GenerateOptions how = translate(options);
  how.leading_space = formats::LeadingSpace::kKept;
  return state_->answer(state_->model.encode_prompt(prompt), how, on_text);
}

Answer Model::chat(const std::vector<Message>& messages, const AnswerOptions& options,
                   const TextCallback& on_text) {
  std::vector<text::ChatMessage> conversation;
  for (const Message& message : messages)
    conversation.push_back({.role = message.role, .content = message.content});
  return state_->answer(state_->model.encode_chat(conversation), translate(options), on_text);
}

std::vector<int32_t> Model::tokenize(std::string_view text) const {
  return state_->model.tokenizer().encode(text);
}

std::string Model::detokenize(const std::vector<int32_t>& tokens) const {
  return state_->model.tokenizer().decode(tokens);
}

bool Model::can_chat() const { return state_->model.has_chat_template(); }
size_t Model::context_length() const { return state_->model.context_length(); }
size_t Model::vocab_size() const { return state_->model.model().config().vocab_size; }

}  // namespace weft
