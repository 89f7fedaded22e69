// What OpenAI's clients send, and what nobody should: every field is read, checked and named.
#include "serve/openai/requests.h"

#include <gtest/gtest.h>

#include <limits>

#include "serve/test_model.h"

namespace weft::serve::openai {
namespace {

const text::TextModel& model() {
  static const std::unique_ptr<text::TextModel> loaded = load_test_model();
  return *loaded;
}

AnswerRequest chat(const std::string& more = "") {
  return parse_chat_request(
      parse_body(R"({"messages": [{"role": "user", "content": "Hi"}])" + more + "}"), model(), {});
}
AnswerRequest completion(const std::string& fields) {
  return parse_completion_request(parse_body("{" + fields + "}"), model(), {});
}

TEST(requests, fields_reach_the_sampler) {
  const AnswerRequest r = chat(
      R"(, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "typical_p": 0.8,
         "presence_penalty": 0.3, "frequency_penalty": -0.4, "repetition_penalty": 1.1,
         "seed": -3, "max_completion_tokens": 12, "n": 3, "stop": ["a", "b"], "stream": true,
         "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 4,
         "logit_bias": {"5": -100, "6": 2.5}, "user": "ignored", "store": false)");
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(r.sampling.top_p, 0.9f);
  EXPECT_EQ(r.sampling.top_k, 7);
  EXPECT_FLOAT_EQ(r.sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(r.sampling.typical_p, 0.8f);
  EXPECT_FLOAT_EQ(r.sampling.presence_penalty, 0.3f);
  EXPECT_FLOAT_EQ(r.sampling.frequency_penalty, -0.4f);
  EXPECT_FLOAT_EQ(r.sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(r.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_EQ(r.max_tokens, 12u);
  EXPECT_EQ(r.num_choices, 3u);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(r.stream && r.include_usage && r.want_logprobs);
  EXPECT_EQ(r.num_top_logprobs, 4u);
  ASSERT_EQ(r.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(r.sampling.logit_bias[0].second, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(r.sampling.logit_bias[1], (std::pair<text::Token, float>{6, 2.5f}));
}

TEST(requests, null_is_absent) {
  const AnswerRequest r = chat(
      R"(, "temperature": null, "stop": null, "max_tokens": null, "n": null, "tools": null,
         "response_format": null, "stream_options": null, "logit_bias": null)");
  EXPECT_FLOAT_EQ(r.sampling.temperature, text::SamplingOptions().temperature);
  EXPECT_EQ(r.max_tokens, SIZE_MAX);
}

TEST(requests, without_a_seed_answers_differ) {
  EXPECT_NE(chat().sampling.seed, chat().sampling.seed);
  for (int i = 0; i < 100; ++i)  // what the answer tells can be sent back, by JavaScript too
    EXPECT_LT(chat().sampling.seed, uint64_t{1} << 53);
}

TEST(requests, messages_come_in_many_forms) {
  const auto text_of = [](const std::string& messages) {
    const AnswerRequest r =
        parse_chat_request(parse_body("{\"messages\": " + messages + "}"), model(), {});
    return model().tokenizer().decode(r.prompts.front());
  };
  EXPECT_EQ(text_of(R"([{"role": "developer", "content": "S"}, {"role": "user", "content": "U"}])"),
            "system: S\nuser: U\nassistant:");
  EXPECT_EQ(text_of(R"([{"role": "user", "content": [{"type": "text", "text": "a"},
                                                   {"type": "text", "text": "b"}]}])"),
            "user: ab\nassistant:");
  // A conversation with a call of a function and its result.
  EXPECT_EQ(text_of(R"([{"role": "user", "content": "U"},
                        {"role": "assistant", "content": null, "tool_calls": [{"id": "1",
                          "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                        {"role": "tool", "tool_call_id": "1", "content": "R"}])"),
            "user: U\nassistant: \ntool: R\nassistant:");
  // The beginning of the answer is the model's to continue.
  EXPECT_EQ(text_of(R"([{"role": "user", "content": "U"}, {"role": "assistant", "content": "Be"}])"),
            "user: U\nassistant:Be");
}

TEST(requests, tools_reach_the_template_unless_the_choice_is_none) {
  const std::string tools =
      R"(, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}])";
  const AnswerRequest with = chat(tools);
  EXPECT_EQ(with.tools, ToolCallFormat::kHermes);
  EXPECT_NE(model().tokenizer().decode(with.prompts.front()).find("tools: 1"), std::string::npos);
  EXPECT_FALSE(chat(tools + R"(, "tool_choice": "none")").tools);
}

TEST(requests, completions_take_texts_and_tokens) {
  EXPECT_EQ(completion(R"("prompt": "ab")").max_tokens, 16u);  // OpenAI's default
  EXPECT_EQ(completion(R"("prompt": ["a", "b"])").prompts.size(), 2u);
  EXPECT_EQ(completion(R"("prompt": [1, 2, 3])").prompts.front(),
            (std::vector<text::Token>{1, 2, 3}));
  EXPECT_EQ(completion(R"("prompt": [[1, 2], [3]], "n": 2)").prompts.size(), 2u);
  const AnswerRequest echo = completion(R"("prompt": "ab", "echo": true)");
  EXPECT_EQ(echo.echo_texts.front(), "ab");
}

struct Bad {
  const char* body;
  const char* param;
};

TEST(requests, bad_chat_fields_are_named) {
  const std::string m = R"("messages": [{"role": "user", "content": "Hi"}])";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{}", "messages"},
      {R"({"messages": []})", "messages"},
      {R"({"messages": "Hi"})", "messages"},
      {R"({"messages": ["Hi"]})", "messages[0]"},
      {R"({"messages": [{"content": "Hi"}]})", "messages[0].role"},
      {R"({"messages": [{"role": "wizard", "content": "Hi"}]})", "messages[0].role"},
      {R"({"messages": [{"role": "user", "content": ""}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       "messages[0].content[0]"},
      {"{" + m + R"(, "temperature": "hot"})", "temperature"},
      {"{" + m + R"(, "temperature": -1})", "temperature"},
      {"{" + m + R"(, "top_p": 1.5})", "top_p"},
      {"{" + m + R"(, "max_tokens": 0})", "max_tokens"},
      {"{" + m + R"(, "max_tokens": -5})", "max_tokens"},
      {"{" + m + R"(, "max_tokens": 1.5})", "max_tokens"},
      {"{" + m + R"(, "max_tokens": 99999999999999999999})", "max_tokens"},
      {"{" + m + R"(, "n": 0})", "n"},
      {"{" + m + R"(, "n": 1000})", "n"},
      {"{" + m + R"(, "stop": [1]})", "stop"},
      {"{" + m + R"(, "stop": ""})", "stop"},
      {"{" + m + R"(, "stream": "yes"})", "stream"},
      {"{" + m + R"(, "logit_bias": {"abc": 1}})", "logit_bias"},
      {"{" + m + R"(, "logit_bias": {"99999999": 1}})", "logit_bias"},
      {"{" + m + R"(, "logit_bias": {"1": "x"}})", "logit_bias.1"},
      {"{" + m + R"(, "top_logprobs": 3})", "top_logprobs"},
      {"{" + m + R"(, "logprobs": true, "top_logprobs": 21})", "top_logprobs"},
      {"{" + m + R"(, "tools": [{"type": "shell"}]})", "tools[0].type"},
      {"{" + m + R"(, "tools": [{"type": "function", "function": {}}]})", "tools[0].function.name"},
      {"{" + m + R"(, "tool_choice": "sometimes"})", "tool_choice"},
      {"{" + m + R"(, "tool_choice": "required"})", "tool_choice"},
      {"{" + m + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}}})",
       "tool_choice.function.name"},
  };
  for (const auto& [body, param] : cases) {
    try {
      parse_chat_request(parse_body(body), model(), {});
      ADD_FAILURE() << "accepted: " << body;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400) << body;
      EXPECT_EQ(error.param, param) << body << ": " << error.what();
    }
  }
}

TEST(requests, bad_completion_fields_are_named) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{}", "prompt"},
      {R"({"prompt": ""})", "prompt"},
      {R"({"prompt": []})", "prompt"},
      {R"({"prompt": 5})", "prompt"},
      {R"({"prompt": [1, "a"]})", "prompt[0]"},
      {R"({"prompt": [99999999]})", "prompt"},
      {R"({"prompt": [-1]})", "prompt"},
      {R"({"prompt": "a", "suffix": "b"})", "suffix"},
      {R"({"prompt": "a", "best_of": 4})", "best_of"},
      {R"({"prompt": "a", "logprobs": true})", "logprobs"},
      {"{\"prompt\": \"\\u0000\\uD800\"}", ""},  // half a surrogate pair: not JSON
  };
  for (const auto& [body, param] : cases) {
    try {
      parse_completion_request(parse_body(body), model(), {});
      ADD_FAILURE() << "accepted: " << body;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400) << body;
      EXPECT_EQ(error.param, param) << body << ": " << error.what();
    }
  }
}

TEST(requests, the_form_of_an_answer) {
  const std::string schema = R"({"type": "object", "properties": {"a": {"type": "integer"}}})";
  const std::vector<std::pair<std::string, bool>> cases = {
      {R"(, "response_format": {"type": "text"})", false},
      {R"(, "response_format": {"type": "json_object"})", true},
      {R"(, "response_format": {"type": "json_object", "schema": )" + schema + "}", true},
      {R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
            "schema": )" + schema + "}}", true},
      {R"(, "json_schema": )" + schema, true},
      {R"(, "grammar": "root ::= [a-c]+")", true}};
  for (const auto& [more, filtered] : cases) {
    EXPECT_EQ(chat(more).filter != nullptr, filtered) << more;
    EXPECT_EQ(completion(R"("prompt": "x")" + more).filter != nullptr, filtered) << more;
  }
  EXPECT_EQ(chat(cases[3].first).filter, chat(cases[3].first).filter) << "kept for the next";

  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  EXPECT_FALSE(chat(tools).filter);
  EXPECT_TRUE(chat(tools + R"(, "tool_choice": "required")").filter);
  EXPECT_TRUE(chat(tools + R"(, "tool_choice": {"type": "function", "function": {"name": "f"}})")
                  .filter);
  EXPECT_FALSE(chat(tools + R"(, "tool_choice": "none")").filter);
  EXPECT_TRUE(chat(tools + R"(, "tool_choice": "none")" + cases[1].first).filter);
}

TEST(requests, forms_that_cannot_be_are_named) {
  const std::string strict =
      R"(, "tools": [{"type": "function", "function": {"name": "f", "strict": true,
          "parameters": {"not": {}}}}])";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"(, "response_format": "json")", "response_format"},
      {R"(, "response_format": {})", "response_format.type"},
      {R"(, "response_format": {"type": "xml"})", "response_format.type"},
      {R"(, "response_format": {"type": "json_schema"})", "response_format.json_schema"},
      {R"(, "response_format": {"type": "json_schema", "json_schema": {}})",
       "response_format.json_schema.schema"},
      {R"(, "response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}})",
       "response_format"},
      {R"(, "json_schema": {"type": "x"})", "json_schema"},
      {R"(, "grammar": "root ::= x")", "grammar"},
      {R"(, "grammar": 5)", "grammar"},
      {R"(, "grammar": "root ::= [a]", "json_schema": {})", "json_schema"},
      {R"(, "grammar": "root ::= [a]", "response_format": {"type": "json_object"})",
       "response_format"},
      {strict, "tools[0].function.parameters"},
      {R"(, "tools": [{"type": "function", "function": {"name": "f"}}], "grammar": "root ::= [a]")",
       "tools"}};
  for (const auto& [more, param] : cases) {
    try {
      chat(more);
      ADD_FAILURE() << "accepted: " << more;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400) << more;
      EXPECT_EQ(error.param, param) << more << ": " << error.what();
    }
  }
}

TEST(requests, hostile_bodies_are_refused_quickly) {
  std::string deep(100000, '[');
  std::string stops = R"({"messages": [{"role": "user", "content": "Hi"}], "stop": [)";
  for (int i = 0; i < 100000; ++i) stops += "\"x\",";
  stops += "\"x\"]}";
  std::string keys = "{";
  for (int i = 0; i < 100000; ++i) keys += "\"k" + std::to_string(i) + "\": 1,";
  keys += "\"messages\": 1}";
  for (const std::string& body : {deep, stops, keys, std::string("not JSON"), std::string("[]"),
                                  std::string(), std::string("\"\xff\"")})
    EXPECT_THROW(parse_chat_request(parse_body(body), model(), {}), ApiError) << body.substr(0, 40);
}

}  // namespace
}  // namespace weft::serve::openai
