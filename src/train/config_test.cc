#include "train/config.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::train {
namespace {

constexpr const char* kGood = R"({"data": "a.jsonl", "tokenizer": "t", "steps": 10})";

std::string message_of(const std::string& json, const std::vector<std::string>& settings = {}) {
  try {
    parse_config(json, "c.json", settings);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
    return error.what();
  }
  return "";
}

TEST(config, defaults_and_values) {
  const Config config = parse_config(
      R"({"data": ["a.jsonl", "task:reason"], "tokenizer": "t", "steps": 10, // how long
          "schedule": "wsd", "model": {"hidden_size": 128}})",
      "c.json");
  EXPECT_EQ(config.data, (std::vector<std::string>{"a.jsonl", "task:reason"}));
  EXPECT_EQ(config.steps, 10U);
  EXPECT_EQ(config.schedule, Schedule::kWsd);
  EXPECT_EQ(config.model.hidden_size, 128U);
  EXPECT_EQ(config.batch_tokens, Config().batch_tokens);
}

TEST(config, settings_come_after_the_file) {
  const Config config = parse_config(
      kGood, "c.json", {"lr=3e-4", "model.num_hidden_layers=2", "out=runs/x", "eval=e"});
  EXPECT_EQ(config.lr, 3e-4);
  EXPECT_EQ(config.model.num_hidden_layers, 2U);
  EXPECT_EQ(config.out, "runs/x");
  EXPECT_EQ(config.eval, std::vector<std::string>{"e"});
}

TEST(config, an_unknown_key_names_the_nearest) {
  EXPECT_NE(message_of(R"({"learning": 1})").find("c.json: there is no key 'learning'"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"batch_token": 1})").find("nearest is 'batch_tokens'"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model": {"hiden_size": 1}})").find("nearest is 'hidden_size';"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"hidden_sizes": 1})").find("'hidden_size' inside \"model\""),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model": {"lr": 1}})").find("'lr' outside \"model\""),
            std::string::npos);
}

TEST(config, what_is_wrong_says_what_is_right) {
  const struct {
    const char *json, *expected;
  } kCases[] = {
      {R"({"steps": "many"})", "'steps' is \"many\", expected a whole number"},
      {R"({"steps": -1})", "'steps' is -1, expected a whole number"},
      {R"({"lr": 11})", "'lr' is 11, expected a number from 0 to 10"},
      {R"({"max_seconds": -1})", "expected a number from 0 to"},
      {R"({"dtype": "f16"})", "one of bf16, f32"},
      {R"({"schedule": "linear"})", "one of cosine, wsd, constant"},
      {R"({"data": [1]})", "a string or a list of strings"},
      {R"({"model": 3})", "'model' is 3, expected an object"},
      {R"({"model": {"pre_gate": 1}})", "true or false"},
      {R"({"model": {"architecture": "gpt2"}})", "one of llama, qwen2, qwen3, megrez2"},
      {R"({"tokenizer": "t", "steps": 1})", "'data' names nothing"},
      {R"({"data": "d", "tokenizer": "t"})", "neither 'steps' nor 'max_seconds'"},
      {R"({"data": "d", "steps": 1})", "needs a 'tokenizer'"},
      {R"({"data": "d", "tokenizer": "t", "steps": 1, "context": 4096, "batch_tokens": 4095})",
       "4096 or more"},
      {R"({"data": "d", "tokenizer": "t", "steps": 1, "model": {"num_attention_heads": 3}})",
       "a divisor of hidden_size"},
      {R"({"data": "d", "tokenizer": "t", "steps": 1, "model": {"num_key_value_heads": 3}})",
       "a divisor of num_attention_heads = 4"},
      {R"({"data": "d", "tokenizer": "t", "steps": 1, "model": {"n_routed_experts": 3}})",
       "experts are of architecture megrez2"},
      {R"({"data": "d", "tokenizer": "t", "steps": 1, "model": {"architecture": "megrez2"}})",
       "1 or more for megrez2"},
      {R"({"data": "d", "tokenizer": "t", "steps": 1, "model": {"architecture": "megrez2",
           "n_routed_experts": 2}})",
       "at most n_routed_experts = 2"},
      {"{\n\n  \"lr\": }", "c.json:3: not JSON"},
      {"[]", "not a JSON object"},
  };
  for (const auto& c : kCases)
    EXPECT_NE(message_of(c.json).find(c.expected), std::string::npos)
        << c.json << " gave: " << message_of(c.json);
  EXPECT_NE(message_of(kGood, {"lr"}).find("expected KEY=VALUE"), std::string::npos);
  EXPECT_NE(message_of(kGood, {"data.x=1"}).find("--set"), std::string::npos);
}

TEST(config, what_is_printed_reads_as_the_same) {
  Config config =
      parse_config(kGood, "c.json", {"lr=3e-4", "schedule=wsd", "model.pre_gate=false"});
  const std::string printed = print_config(config);
  const Config again = parse_config(printed, "printed");
  EXPECT_EQ(print_config(again), printed);
  EXPECT_EQ(again.lr, 3e-4);
  EXPECT_FALSE(again.model.pre_gate);
  EXPECT_EQ(again.schedule, Schedule::kWsd);
}

}  // namespace
}  // namespace weft::train
