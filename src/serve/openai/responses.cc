#include "serve/openai/responses.h"

#include <fmt/format.h>

#include <ctime>
#include <random>

#include "formats/unicode.h"

namespace weft::serve::openai {
namespace {

std::string random_id(const char* prefix) {
  static thread_local std::mt19937_64 generator{std::random_device{}()};
  return fmt::format("{}{:016x}", prefix, generator());
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  formats::append_valid_utf8(out, bytes);
  return out;
}

std::string event_of(const Json& json) { return "data: " + dump(json) + "\n\n"; }

// A token may hold part of a character: `token` shows it as well as JSON can, `bytes` exactly.
Json chat_token(const TokenText& token) {
  Json bytes = Json::array();
  for (const char byte : token.bytes) bytes.push_back(static_cast<unsigned char>(byte));
  return {{"token", valid_utf8(token.bytes)},
          {"logprob", *token.logprob},
          {"bytes", std::move(bytes)}};
}

Json chat_logprobs(const std::vector<LogprobEntry>& entries) {
  Json content = Json::array();
  for (const LogprobEntry& entry : entries) {
    Json one = chat_token(entry.token);
    one["top_logprobs"] = Json::array();
    for (const TokenText& top : entry.top) one["top_logprobs"].push_back(chat_token(top));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json completion_logprobs(std::span<const LogprobEntry> entries, size_t text_offset) {
  Json tokens = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const LogprobEntry& entry : entries) {
    tokens.push_back(valid_utf8(entry.token.bytes));
    logprobs.push_back(entry.token.logprob ? Json(*entry.token.logprob) : Json());
    Json top = entry.token.logprob ? Json::object() : Json();
    for (const TokenText& t : entry.top) top[valid_utf8(t.bytes)] = *t.logprob;
    tops.push_back(std::move(top));
    offsets.push_back(text_offset);
    text_offset += entry.token.bytes.size();
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json tool_call(const ToolCall& call) {
  return {{"id", random_id("call_")},
          {"type", "function"},
          {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
}

Json usage_of(const Answer& answer) {
  const Usage usage = answer.usage();
  Json out = {{"prompt_tokens", usage.prompt_tokens},
              {"completion_tokens", usage.completion_tokens},
              {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
              {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
  if (const auto vocab = answer.vocab_usage())
    out["vocabulary"] = {{"mode", text::name(vocab->mode)}, {"profile", vocab->profile},
                         {"size", vocab->size},             {"static", vocab->static_size},
                         {"dynamic", vocab->dynamic_size},  {"escapes", vocab->escapes},
                         {"misses", vocab->misses},         {"screened", vocab->screened},
                         {"rejected_drafts", vocab->rejected}, {"whole_head", vocab->whole}};
  if (const auto kv = answer.kv_usage())
    out["kv"] = {{"policy", kv->policy},
                 {"bytes",
                  {{"16", kv->code_bytes[0]},
                   {"8", kv->code_bytes[1]},
                   {"4", kv->code_bytes[2]},
                   {"2", kv->code_bytes[3]},
                   {"metadata", kv->meta_bytes}}}};
  if (const auto experts = answer.expert_usage())
    out["experts"] = {{"hit_rate", experts->hit_rate()},
                      {"misses", experts->misses},
                      {"late", experts->late},
                      {"bytes_read", experts->bytes_read},
                      {"stall_seconds", experts->stall_s}};
  return out;
}

// The sampling values that were really used: defaults differ from server to server.
Json sampling_of(const text::SamplingOptions& sampling) {
  Json out = to_json(sampling);
  out["seed"] = sampling.seed;
  return out;
}

const std::string& echo_of(const AnswerRequest& request, size_t choice) {
  static const std::string none;
  return request.echo ? request.echo_texts[choice / request.num_choices] : none;
}

Json head_of(const ResponseHead& head, const char* object) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", "weft"}};
}

}  // namespace

ResponseHead new_head(const Answer& answer) {
  return {.id = random_id(answer.request().chat ? "chatcmpl-" : "cmpl-"),
          .created = std::time(nullptr),
          .model = answer.model_name()};
}

WholeResponse::WholeResponse(const Answer& answer)
    : choices_(answer.num_choices()), chat_(answer.request().chat) {
  if (answer.request().max_tokens == 0)
    for (Choice& choice : choices_) choice.finish_reason = text::name(text::FinishReason::kLength);
}

void WholeResponse::add(const Answer::Piece& piece) {
  Choice& choice = choices_[piece.choice];
  choice.all.text += piece.delta.text;
  for (const ToolCall& call : piece.delta.calls) choice.all.calls.push_back(call);
  for (const LogprobEntry& entry : piece.delta.logprobs) choice.all.logprobs.push_back(entry);
  if (!piece.finish_reason.empty()) choice.finish_reason = piece.finish_reason;
}

Json WholeResponse::body(const ResponseHead& head, const Answer& answer) const {
  const AnswerRequest& request = answer.request();
  Json body = head_of(head, chat_ ? "chat.completion" : "text_completion");
  body["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json one = {{"index", i}};
    if (chat_) {
      Json message = {{"role", "assistant"}, {"content", choice.all.text}, {"refusal", nullptr}};
      if (!choice.all.calls.empty()) {
        if (choice.all.text.empty()) message["content"] = nullptr;
        message["tool_calls"] = Json::array();
        for (const ToolCall& call : choice.all.calls)
          message["tool_calls"].push_back(tool_call(call));
      }
      one["message"] = std::move(message);
      one["logprobs"] = request.want_logprobs ? chat_logprobs(choice.all.logprobs) : Json();
    } else {
      const std::string& echo = echo_of(request, i);
      one["text"] = echo + choice.all.text;
      one["logprobs"] = request.want_logprobs
                            ? completion_logprobs(choice.all.logprobs, echo.size())
                            : Json();
      if (const auto of_prompt = answer.echo_logprobs(i); !of_prompt.empty()) {
        Json all = completion_logprobs(of_prompt, 0);
        for (auto& [name, values] : all.items())
          for (Json& value : one["logprobs"][name]) values.push_back(std::move(value));
        one["logprobs"] = std::move(all);
      }
    }
    one["finish_reason"] = choice.finish_reason;
    body["choices"].push_back(std::move(one));
  }
  body["usage"] = usage_of(answer);
  body["timings"] = answer.timings();
  body["sampling"] = sampling_of(request.sampling);
  return body;
}

StreamedResponse::StreamedResponse(ResponseHead head, const Answer& answer)
    : head_(std::move(head)),
      request_(answer.request()),
      calls_(answer.num_choices()),
      text_offset_(answer.num_choices()) {
  for (size_t i = 0; i < text_offset_.size(); ++i) {
    text_offset_[i] = echo_of(request_, i).size();
    const auto of_prompt = answer.echo_logprobs(i);
    echo_logprobs_.push_back(of_prompt.empty() ? Json() : completion_logprobs(of_prompt, 0));
  }
}

Json StreamedResponse::chunk() const {
  Json chunk = head_of(head_, request_.chat ? "chat.completion.chunk" : "text_completion");
  chunk["choices"] = Json::array();
  if (request_.include_usage) chunk["usage"] = nullptr;  // as OpenAI does on all but the last
  return chunk;
}

std::string StreamedResponse::begin() const {
  std::string out;
  for (size_t i = 0; i < calls_.size(); ++i) {
    Json first = chunk();
    if (request_.chat) {
      first["choices"].push_back({{"index", i},
                                  {"delta", {{"role", "assistant"}, {"content", ""}}},
                                  {"logprobs", nullptr},
                                  {"finish_reason", nullptr}});
    } else {
      const std::string& echo = echo_of(request_, i);
      if (echo.empty()) continue;
      first["choices"].push_back({{"index", i},
                                  {"text", echo},
                                  {"logprobs", echo_logprobs_[i]},
                                  {"finish_reason", request_.max_tokens == 0 ? Json("length") : Json()}});
    }
    out += event_of(first);
  }
  return out;
}

std::string StreamedResponse::event(const Answer::Piece& piece) {
  const Delta& delta = piece.delta;
  const Json finish = piece.finish_reason.empty() ? Json() : Json(piece.finish_reason);
  Json next = chunk();
  Json one = {{"index", piece.choice}};
  if (request_.chat) {
    Json content = Json::object();
    if (!delta.text.empty()) content["content"] = delta.text;
    if (!delta.calls.empty()) {
      content["tool_calls"] = Json::array();
      for (const ToolCall& call : delta.calls) {
        Json entry = {{"index", calls_[piece.choice]++}};
        entry.update(tool_call(call));
        content["tool_calls"].push_back(std::move(entry));
      }
    }
    one["delta"] = std::move(content);
    one["logprobs"] = delta.logprobs.empty() ? Json() : chat_logprobs(delta.logprobs);
  } else {
    one["text"] = delta.text;
    one["logprobs"] = delta.logprobs.empty()
                          ? Json()
                          : completion_logprobs(delta.logprobs, text_offset_[piece.choice]);
    for (const LogprobEntry& entry : delta.logprobs)
      text_offset_[piece.choice] += entry.token.bytes.size();
  }
  one["finish_reason"] = finish;
  next["choices"].push_back(std::move(one));
  return event_of(next);
}

std::string StreamedResponse::end(const Answer& answer) const {
  std::string out;
  if (request_.include_usage) {
    Json last = chunk();
    last["usage"] = usage_of(answer);
    last["timings"] = answer.timings();
    last["sampling"] = sampling_of(request_.sampling);
    out += event_of(last);
  }
  return out + "data: [DONE]\n\n";
}

std::string StreamedResponse::error_event(const ApiError& error) { return event_of(error.body()); }

}  // namespace weft::serve::openai
