#include "serve/openai/requests.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <random>

#include "serve/openai/answer_form.h"

namespace weft::serve::openai {
namespace {

constexpr size_t kMaxStops = 64, kMaxStopBytes = 1024, kMaxBiases = 4096, kMaxMessages = 4096;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

// The answer tells it, so that one can ask again with it: below 2^53, for JavaScript's JSON has no
// larger integers.
uint64_t random_seed() {
  static thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator() >> 11;
}

std::optional<double> either(const Fields& fields, const char* name, const char* alias,
                             double least, double most) {
  const auto value = fields.number(name, least, most);
  return value ? value : fields.number(alias, least, most);
}

void parse_logit_bias(const Fields& fields, const text::TextModel& model,
                      text::SamplingOptions& sampling) {
  const Json* const biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kMaxBiases)
    bad_field("logit_bias", "has {} entries, {} at most", biases->size(), kMaxBiases);
  const auto vocab_size = static_cast<int64_t>(model.model().config().vocab_size);
  const Fields entries(*biases, "logit_bias.");
  for (const auto& [name, value] : biases->items()) {
    int64_t token = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), token);
    if (error != std::errc() || end != name.data() + name.size() || token < 0 || token >= vocab_size)
      bad_field("logit_bias", "names '{}', but tokens are numbers from 0 to {}", name,
                vocab_size - 1);
    const double bias = *entries.number(name, -1e6, 1e6);
    // OpenAI: -100 bans a token.
    sampling.logit_bias.emplace_back(static_cast<text::Token>(token),
                                     bias <= -100 ? -std::numeric_limits<float>::infinity()
                                                  : static_cast<float>(bias));
  }
}

text::SamplingOptions parse_sampling(const Fields& fields, const text::TextModel& model,
                                     const text::SamplingOptions& defaults) {
  text::SamplingOptions s = defaults;
  const auto set = [](float& into, std::optional<double> value) {
    if (value) into = static_cast<float>(*value);
  };
  set(s.temperature, fields.number("temperature", 0, 100));
  set(s.top_p, fields.number("top_p", 0, 1));
  s.top_p = std::max(s.top_p, std::numeric_limits<float>::min());  // OpenAI takes 0: the best alone
  set(s.min_p, fields.number("min_p", 0, 1));
  set(s.typical_p, fields.number("typical_p", 1e-6, 1));
  set(s.repetition_penalty, either(fields, "repetition_penalty", "repeat_penalty", 0.01, 100));
  set(s.presence_penalty, fields.number("presence_penalty", -2, 2));
  set(s.frequency_penalty, fields.number("frequency_penalty", -2, 2));
  if (const auto k = fields.integer("top_k", -1, kMaxTokens)) s.top_k = static_cast<int>(*k);
  if (const auto n = fields.integer("repeat_last_n", -1, kMaxTokens))
    s.penalty_last_n = static_cast<int>(*n);
  const auto seed = fields.integer("seed", std::numeric_limits<int64_t>::min(),
                                   std::numeric_limits<int64_t>::max());
  s.seed = seed ? static_cast<uint64_t>(*seed) : random_seed();
  parse_logit_bias(fields, model, s);
  try {
    text::validate(s);
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  return s;
}

std::vector<std::string> parse_stop(const Fields& fields) {
  std::vector<std::string> stop = fields.strings("stop", kMaxStops);
  for (const std::string& text : stop) {
    if (text.empty()) bad_field("stop", "has an empty string: leave it out");
    if (text.size() > kMaxStopBytes)
      bad_field("stop", "has a string of {} bytes, {} at most", text.size(), kMaxStopBytes);
  }
  return stop;
}

text::VocabChoice parse_vocab(const Fields& fields, const text::TextModel& model) {
  std::optional<text::VocabMode> mode;
  if (const auto name = fields.string("vocab_mode")) {
    mode = text::parse_vocab_mode(*name);
    if (!mode)
      bad_field("vocab_mode", "is '{}'; known are off, verify, hybrid, static and draft", *name);
  }
  const auto profile = fields.string("vocab_profile");
  try {
    return model.choose_vocab(profile, mode);
  } catch (const Error& error) {
    throw ApiError(400, error.what(), profile ? "vocab_profile" : "vocab_mode");
  }
}

// 8 or "8".
std::optional<size_t> parse_width(const Fields& fields, const char* name) {
  const Json* const value = fields.find(name);
  if (value == nullptr) return std::nullopt;
  for (const size_t bits : {16, 8, 4, 2})
    if (*value == bits || *value == std::to_string(bits)) return bits;
  bad_field(name, "is {}; known are 16, 8, 4 and 2 (bits)", value->dump());
}

std::shared_ptr<const text::KvPolicy> parse_kv(const Fields& fields, const text::TextModel& model) {
  const auto both = parse_width(fields, "kv");
  const auto k = parse_width(fields, "kv_k"), v = parse_width(fields, "kv_v");
  try {
    return model.choose_kv(k ? k : both, v ? v : both);
  } catch (const Error& error) {
    throw ApiError(400, error.what(), both ? "kv" : k ? "kv_k" : "kv_v");
  }
}

// What both kinds of completion share.
AnswerRequest parse_common(const Fields& fields, const text::TextModel& model,
                           const RequestDefaults& defaults) {
  AnswerRequest request;
  request.sampling = parse_sampling(fields, model, defaults.sampling);
  request.num_choices = static_cast<size_t>(
      fields.integer("n", 1, static_cast<int64_t>(defaults.max_choices)).value_or(1));
  request.stop = parse_stop(fields);
  request.stop_at_end = !fields.boolean("ignore_eos").value_or(false);
  request.stream = fields.boolean("stream").value_or(false);
  request.vocab = parse_vocab(fields, model);
  request.kv = parse_kv(fields, model);
  if (const Json* const options = fields.object("stream_options"))
    request.include_usage =
        Fields(*options, "stream_options.").boolean("include_usage").value_or(false);
  return request;
}

bool is_token_list(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_number_integer(); });
}

// The text of a message: a string, or a list of parts of type text.
std::string parse_content(const Fields& message) {
  const Json* const content = message.find("content");
  if (content == nullptr) return {};
  if (content->is_string()) return content->get<std::string>();
  std::string text;
  const Json* const parts = message.array("content");
  for (size_t i = 0; i < parts->size(); ++i) {
    const std::string path = fmt::format("{}[{}]", message.path("content"), i);
    if (!(*parts)[i].is_object()) bad_field(path, "must be an object with a 'type'");
    const Fields part((*parts)[i], path + ".");
    const std::string type = part.need_string("type");
    if (type != "text")
      bad_field(path, "is of type '{}'; this model reads text alone", type);
    text += part.need_string("text");
  }
  return text;
}

// Templates want the arguments of earlier calls as an object; the wire has them as JSON in a string.
Json parse_tool_calls(const Json& calls) {
  Json out = calls;
  for (Json& call : out) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    Json& function = call["function"];
    const auto arguments = function.find("arguments");
    if (arguments == function.end() || !arguments->is_string()) continue;
    Json parsed = Json::parse(arguments->get_ref<const std::string&>(), nullptr, false);
    if (parsed.is_object()) *arguments = std::move(parsed);
  }
  return out;
}

text::ChatMessage parse_message(const Fields& fields) {
  static constexpr std::string_view kRoles[] = {"system", "developer", "user",
                                                "assistant", "tool", "function"};
  text::ChatMessage message;
  message.role = fields.need_string("role");
  if (std::find(std::begin(kRoles), std::end(kRoles), message.role) == std::end(kRoles))
    bad_field(fields.path("role"), "is '{}'; known are system, developer, user, assistant and tool",
              message.role);
  if (message.role == "developer") message.role = "system";
  if (message.role == "function") message.role = "tool";
  message.content = parse_content(fields);
  message.extra = Json::object();
  for (const char* const name : {"name", "tool_call_id", "reasoning_content"})
    if (const auto value = fields.string(name)) message.extra[name] = *value;
  if (const Json* const calls = fields.array("tool_calls"))
    message.extra["tool_calls"] = parse_tool_calls(*calls);
  if (message.content.empty() && message.role == "user")
    bad_field(fields.path("content"), "is empty: give the message some text");
  return message;
}

std::vector<text::ChatMessage> parse_messages(const Fields& fields) {
  const Json* const list = fields.array("messages");
  if (list == nullptr || list->empty())
    throw ApiError(400, "'messages' is missing or empty: give at least one message", "messages",
                   "missing_required_parameter");
  if (list->size() > kMaxMessages)
    bad_field("messages", "has {} entries, {} at most", list->size(), kMaxMessages);
  std::vector<text::ChatMessage> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("messages[{}]", i);
    if (!(*list)[i].is_object()) bad_field(path, "must be an object with 'role' and 'content'");
    messages.push_back(parse_message(Fields((*list)[i], path + ".")));
  }
  return messages;
}

// The request's functions, checked; null when it has none or must not call any.
Json parse_tools(const Fields& fields) {
  const Json* const tools = fields.array("tools");
  if (tools == nullptr || tools->empty()) return nullptr;
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    if (!(*tools)[i].is_object()) bad_field(path, "must be an object");
    const Fields tool((*tools)[i], path + ".");
    if (const std::string type = tool.need_string("type"); type != "function")
      bad_field(path + ".type", "is '{}'; 'function' is the only one known", type);
    const Json* const function = tool.object("function");
    if (function == nullptr) bad_field(path + ".function", "is missing");
    Fields(*function, path + ".function.").need_string("name");
  }
  return *tools;
}

void tell_of_tools(std::vector<text::ChatMessage>& messages, const Json& tools) {
  const std::string description = describe_tools(tools);
  if (messages.front().role == "system")
    messages.front().content += "\n\n" + description;
  else
    messages.insert(messages.begin(), {.role = "system", .content = description});
}

// What `tool_choice` says about calling functions.
struct ToolChoice {
  enum class Mode : uint8_t { kNone, kAuto, kRequired };
  Mode mode = Mode::kAuto;
  std::string function;  // required: this one, if named
};

ToolChoice parse_tool_choice(const Fields& fields, const Json& tools) {
  const Json* const value = fields.find("tool_choice");
  if (value == nullptr) return {};
  if (value->is_string()) {
    const auto& word = value->get_ref<const std::string&>();
    if (word == "none") return {ToolChoice::Mode::kNone, {}};
    if (word == "auto") return {};
    if (word != "required")
      bad_field("tool_choice", "is '{}'; known are none, auto, required, or a named function", word);
    if (tools.is_null()) bad_field("tool_choice", "is 'required', but there are no tools");
    return {ToolChoice::Mode::kRequired, {}};
  }
  const Json* const object = fields.object("tool_choice");
  const Json* const function = Fields(*object, "tool_choice.").object("function");
  if (function == nullptr) bad_field("tool_choice.function", "is missing");
  std::string name = Fields(*function, "tool_choice.function.").need_string("name");
  const auto is_it = [&](const Json& tool) { return tool["function"]["name"] == name; };
  if (tools.is_null() || std::none_of(tools.begin(), tools.end(), is_it))
    bad_field("tool_choice.function.name", "is '{}', but no tool has that name", name);
  return {ToolChoice::Mode::kRequired, std::move(name)};
}

// With a choice that must be a call, or strict tools, nothing else can be written.
void add_tool_call_filter(const Json& tools, const ToolChoice& choice,
                          const text::TextModel& model, AnswerRequest& request) {
  if (request.filter)
    bad_field("tools", "exclude a given form of the answer, unless 'tool_choice' is none");
  const bool required = choice.mode == ToolChoice::Mode::kRequired;
  if (!required && !any_strict(tools)) return;
  request.filter = tool_call_filter(tools,
                                    {.format = *request.tools,
                                     .wanted = required ? CallsWanted::kRequired
                                                        : CallsWanted::kAllowed,
                                     .parallel = request.parallel_tool_calls,
                                     .function = choice.function},
                                    model);
}

void parse_chat_logprobs(const Fields& fields, AnswerRequest& request) {
  request.want_logprobs = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, 20);
  if (top && *top > 0 && !request.want_logprobs)
    bad_field("top_logprobs", "needs 'logprobs' to be true");
  request.num_top_logprobs = static_cast<size_t>(top.value_or(0));
}

std::vector<text::Token> encode(const text::TextModel& model,
                                const std::vector<text::ChatMessage>& messages,
                                formats::ChatOptions options) {
  try {
    return model.encode_chat(messages, std::move(options));
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "messages");
  }
}

}  // namespace

Json to_json(const text::SamplingOptions& s) {
  // The shortest text that reads back as the same float: 0.8, not 0.800000011920929.
  const auto number = [](float value) { return Json::parse(fmt::format("{}", value)); };
  return {{"temperature", number(s.temperature)},
          {"top_k", s.top_k},
          {"top_p", number(s.top_p)},
          {"min_p", number(s.min_p)},
          {"typical_p", number(s.typical_p)},
          {"repetition_penalty", number(s.repetition_penalty)},
          {"presence_penalty", number(s.presence_penalty)},
          {"frequency_penalty", number(s.frequency_penalty)}};
}

AnswerRequest parse_chat_request(const Json& body, const text::TextModel& model,
                                 const RequestDefaults& defaults) {
  const Fields fields(body);
  AnswerRequest request = parse_common(fields, model, defaults);
  request.chat = true;
  request.filter = parse_answer_form(fields, model, formats::LeadingSpace::kAsDecoded);
  parse_chat_logprobs(fields, request);
  auto max_tokens = fields.integer("max_completion_tokens", 1, kMaxTokens);
  if (!max_tokens) max_tokens = fields.integer("max_tokens", 1, kMaxTokens);
  if (max_tokens) request.max_tokens = static_cast<size_t>(*max_tokens);

  std::vector<text::ChatMessage> messages = parse_messages(fields);
  formats::ChatOptions options;
  if (const Json* const extra = fields.object("chat_template_kwargs")) options.extra = *extra;
  const Json tools = parse_tools(fields);
  const ToolChoice choice = parse_tool_choice(fields, tools);
  if (!tools.is_null() && choice.mode != ToolChoice::Mode::kNone) {
    request.tools = tool_call_format(model.chat_template_text());
    request.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
    add_tool_call_filter(tools, choice, model, request);
    if (model.chat_template_text().find("tools") != std::string_view::npos)
      options.tools = tools;
    else
      tell_of_tools(messages, tools);
  }
  request.prompts.push_back(encode(model, messages, std::move(options)));
  return request;
}

AnswerRequest parse_completion_request(const Json& body, const text::TextModel& model,
                                       const RequestDefaults& defaults) {
  constexpr int64_t kOpenAiDefault = 16;
  const Fields fields(body);
  AnswerRequest request = parse_common(fields, model, defaults);
  request.filter = parse_answer_form(fields, model, formats::LeadingSpace::kKept);
  request.echo = fields.boolean("echo").value_or(false);
  // With the prompt alone there is an answer to give, too.
  request.max_tokens = static_cast<size_t>(
      fields.integer("max_tokens", request.echo ? 0 : 1, kMaxTokens).value_or(kOpenAiDefault));
  if (const auto top = fields.integer("logprobs", 0, 20)) {
    request.want_logprobs = true;
    request.num_top_logprobs = static_cast<size_t>(*top);
  }
  if (const auto suffix = fields.string("suffix"); suffix && !suffix->empty())
    bad_field("suffix", "is not supported: the model continues a text, it fills no gaps");
  if (const auto best_of = fields.integer("best_of", 1, 1000);
      best_of && static_cast<size_t>(*best_of) != request.num_choices)
    bad_field("best_of", "is not supported beyond 'n'");
  PromptList prompts =
      parse_prompts(fields, "prompt", model, defaults.max_choices / request.num_choices);
  request.prompts = std::move(prompts.tokens);
  if (request.echo) request.echo_texts = std::move(prompts.texts);
  return request;
}

PromptList parse_prompts(const Fields& fields, const std::string& name,
                         const text::TextModel& model, size_t most) {
  const Json* const value = fields.find(name);
  if (value == nullptr)
    throw ApiError(400, fmt::format("'{}' is missing", name), name, "missing_required_parameter");
  PromptList out;
  const auto add = [&](const Json& prompt, const std::string& path) {
    try {
      if (prompt.is_string()) {
        out.texts.push_back(prompt.get<std::string>());
        out.tokens.push_back(model.encode_prompt(out.texts.back()));
        return;
      }
      if (is_token_list(prompt)) {
        const auto vocab_size = static_cast<int64_t>(model.model().config().vocab_size);
        std::vector<text::Token> tokens;
        for (const Json& id : prompt) {
          const auto token = id.get<int64_t>();
          if (token < 0 || token >= vocab_size)
            bad_field(path, "has token {}, but tokens are numbers from 0 to {}", token,
                      vocab_size - 1);
          tokens.push_back(static_cast<text::Token>(token));
        }
        out.texts.push_back(model.tokenizer().decode(tokens));
        out.tokens.push_back(std::move(tokens));
        return;
      }
    } catch (const Error& error) {
      throw ApiError(400, error.what(), path);
    }
    bad_field(path, "must be a string, a list of tokens, or a list of either");
  };
  if (!value->is_array() || is_token_list(*value)) {
    add(*value, name);
    return out;
  }
  if (value->empty()) bad_field(name, "is an empty list");
  if (value->size() > most)
    bad_field(name, "has {} entries, {} at most", value->size(), most);
  for (size_t i = 0; i < value->size(); ++i) add((*value)[i], fmt::format("{}[{}]", name, i));
  return out;
}

}  // namespace weft::serve::openai
