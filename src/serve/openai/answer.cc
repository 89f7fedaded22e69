#include "serve/openai/answer.h"

#include <utility>

namespace weft::serve::openai {

Answer::Answer(ServedModel& model, AnswerRequest request)
    : model_(model), request_(std::move(request)), queue_(std::make_shared<AnswerQueue>()) {
  try {
    model.model().check_files();
  } catch (const Error& error) {
    throw to_api_error(error);
  }
  if (const text::ExpertStream* const stream = model.model().experts())
    experts_before_ = stream->counters();
  const formats::Tokenizer& tokenizer = model.model().tokenizer();
  for (const std::vector<text::Token>& prompt : request_.prompts) {
    if (prompt.size() >= model.model().context_length())
      throw ApiError(
          400,
          fmt::format("the prompt has {} tokens, but the context holds {}, the answer included. "
                      "Shorten the prompt, or start the server with a longer --context.",
                      prompt.size(), model.model().context_length()),
          request_.chat ? "messages" : "prompt", "context_length_exceeded");
    const size_t room = model.model().context_length() - prompt.size();
    if (model.model().kv_limits_context() && request_.max_tokens != SIZE_MAX &&
        request_.max_tokens > room)
      throw ApiError(
          400,
          fmt::format("{} tokens were asked for, but after a prompt of {} the KV cache ({}) has room "
                      "for {}. Ask for fewer, or start the server with a larger --kv-budget.",
                      request_.max_tokens, prompt.size(), model.model().memory_plan().kv, room),
          "max_tokens", "context_length_exceeded");
    if (request_.echo && request_.want_logprobs) echo_logprobs_.push_back(score(prompt));
    for (size_t n = 0; n < request_.num_choices; ++n) {
      auto job = std::make_shared<Job>();
      job->id = new_request_id();
      job->choice = choices_.size();
      job->decode = {.prompt = prompt,
                     .sampling = request_.sampling,
                     .random_stream = n,
                     .max_tokens = request_.max_tokens,
                     .filter = request_.filter,
                     .want_logprobs = request_.want_logprobs,
                     .num_top_logprobs = request_.num_top_logprobs,
                     .prefix_scope = request_.prefix_scope,
                     .vocab = request_.vocab,
                     .kv = request_.kv};
      job->stop_at_end = request_.stop_at_end;
      job->prompt_tokens = prompt.size();
      job->answers = queue_;
      choices_.push_back({.job = std::move(job), .text = ChoiceText(tokenizer, request_)});
    }
  }
  if (request_.max_tokens == 0) {  // the echo alone
    for (Choice& choice : choices_) choice.open = false;
    return;
  }
  num_open_ = choices_.size();
  size_t submitted = 0;
  try {
    for (; submitted < choices_.size(); ++submitted) model_.submit(choices_[submitted].job);
  } catch (const Error& error) {
    for (size_t i = 0; i < submitted; ++i) model_.cancel(*choices_[i].job);
    throw to_api_error(error);
  }
}

std::vector<LogprobEntry> Answer::score(const std::vector<text::Token>& prompt) const {
  const formats::Tokenizer& tokenizer = model_.model().tokenizer();
  std::vector<LogprobEntry> out = {{{tokenizer.piece(prompt.front(), true), std::nullopt}, {}}};
  try {
    for (const text::Sampled& token : model_.score(prompt, request_.num_top_logprobs))
      out.push_back(logprob_entry(tokenizer, token));
  } catch (const Error& error) {
    throw to_api_error(error);
  }
  return out;
}

std::span<const LogprobEntry> Answer::echo_logprobs(size_t choice) const {
  if (echo_logprobs_.empty()) return {};
  return echo_logprobs_[choice / request_.num_choices];
}

Answer::~Answer() {
  for (const Choice& choice : choices_)
    if (choice.open) model_.cancel(*choice.job);
}

std::vector<Answer::Piece> Answer::wait(std::chrono::milliseconds patience) {
  std::vector<Piece> pieces;
  if (done()) return pieces;
  queue_->wait(events_, patience);
  for (const AnswerEvent& event : events_) {
    Choice& choice = choices_[event.choice];
    if (!choice.open) continue;  // a stop string ended it; the executor had gone on
    if (event.error) throw to_api_error(*event.error);
    Piece piece;
    piece.choice = event.choice;
    if (event.token) {
      ++choice.num_tokens;
      piece.delta = choice.text.push(*event.token);
      if (choice.text.stopped()) {
        model_.cancel(*choice.job);
        close(choice, text::FinishReason::kStop, piece);
      }
    }
    if (event.finished) {
      if (*event.finished == text::FinishReason::kCancelled)
        throw ApiError(503, "the server is shutting down");
      close(choice, *event.finished, piece);
    }
    if (!piece.delta.empty() || !piece.finish_reason.empty()) pieces.push_back(std::move(piece));
  }
  return pieces;
}

void Answer::close(Choice& choice, text::FinishReason reason, Piece& piece) {
  Delta rest = choice.text.finish();
  piece.delta.text += rest.text;
  std::move(rest.calls.begin(), rest.calls.end(), std::back_inserter(piece.delta.calls));
  std::move(rest.logprobs.begin(), rest.logprobs.end(), std::back_inserter(piece.delta.logprobs));
  piece.finish_reason = reason == text::FinishReason::kStop && choice.text.has_calls()
                            ? "tool_calls"
                            : text::name(reason);
  choice.open = false;
  --num_open_;
}

Usage Answer::usage() const {
  Usage usage;
  for (const Choice& choice : choices_) {
    // OpenAI counts a prompt once, however many choices it has.
    if (choice.job->choice % request_.num_choices == 0) {
      usage.prompt_tokens += choice.job->prompt_tokens;
      usage.cached_tokens += choice.job->reused_tokens.load();
    }
    usage.completion_tokens += choice.num_tokens;
  }
  return usage;
}

std::optional<VocabUsage> Answer::vocab_usage() const {
  if (request_.vocab.mode == text::VocabMode::kOff) return std::nullopt;
  const Job& first = *choices_.front().job;
  VocabUsage usage{.mode = request_.vocab.mode,
                   .profile = request_.vocab.head->name(),
                   .size = first.vocab_size.load(),
                   .static_size = first.vocab_static.load(),
                   .dynamic_size = first.vocab_dynamic.load(),
                   .whole = first.vocab_whole.load()};
  for (const Choice& choice : choices_) {
    usage.escapes += choice.job->vocab_escapes.load();
    usage.misses += choice.job->vocab_misses.load();
    usage.screened += choice.job->vocab_screened.load();
    usage.rejected += choice.job->vocab_rejected.load();
  }
  return usage;
}

std::optional<KvUsage> Answer::kv_usage() const {
  if (model_.model().kv_policy() == nullptr && request_.kv == nullptr) return std::nullopt;
  KvUsage usage{.policy = request_.kv != nullptr ? request_.kv->describe()
                                                 : model_.model().memory_plan().kv};
  for (const Choice& choice : choices_) {
    for (size_t i = 0; i < usage.code_bytes.size(); ++i)
      usage.code_bytes[i] += choice.job->kv_code_bytes[i].load();
    usage.meta_bytes += choice.job->kv_meta_bytes.load();
  }
  return usage;
}

std::optional<text::ExpertCounters> Answer::expert_usage() const {
  const text::ExpertStream* const stream = model_.model().experts();
  if (stream == nullptr) return std::nullopt;
  return stream->counters() - experts_before_;
}

Json Answer::timings() const {
  const Job& job = *choices_.front().job;
  const double started = job.started_s.load(), first = job.first_token_s.load(),
               last = job.last_token_s.load();
  const auto reused = job.reused_tokens.load();
  const auto read = static_cast<double>(job.prompt_tokens - reused);
  const auto made = static_cast<double>(choices_.front().num_tokens);
  const double prompt_s = first >= 0 ? first - started : 0;
  const double made_s = last > first ? last - first : 0;
  return {{"queued_ms", started >= 0 ? started * 1e3 : 0},
          {"cache_n", reused},
          {"prompt_n", job.prompt_tokens - reused},
          {"prompt_ms", prompt_s * 1e3},
          {"prompt_per_second", prompt_s > 0 ? read / prompt_s : 0},
          {"predicted_n", choices_.front().num_tokens},
          {"predicted_ms", made_s * 1e3},
          {"predicted_per_second", made_s > 0 ? (made - 1) / made_s : 0}};
}

}  // namespace weft::serve::openai
