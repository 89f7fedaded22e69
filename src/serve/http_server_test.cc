// The server as its clients meet it: a real socket, a tiny model.
#include "serve/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <thread>

#include "base/random.h"
#include "serve/test_model.h"

#ifdef __SANITIZE_THREAD__
// The packaged HTTP library is built without TSan: what its threads share through the guards of
// function-local statics (regular expressions, tables) looks unguarded.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_suppressions() {
  return "race:libcpp-httplib.so\n";
}
#endif

namespace weft::serve {
namespace {

using openai::Json;

class Running {
 public:
  explicit Running(const HttpOptions& options = {}, const TestModelOptions& model = {})
      : Running(serve_test_model(model), options) {}
  explicit Running(std::unique_ptr<ServedModel> model, HttpOptions options = {}) {
    options.port = 0;
    server_ = std::make_unique<HttpServer>(options, models_);
    thread_ = std::thread([this] { server_->run(); });
    models_.add(std::move(model));
    models_.set_ready();
  }
  ~Running() { stop(); }
  void stop(std::chrono::seconds patience = std::chrono::seconds(0),
            const std::string& why = "the test is over") {
    if (!thread_.joinable()) return;
    server_->stop(patience, why);
    thread_.join();
  }

  httplib::Client client() const {
    httplib::Client client("127.0.0.1", server_->port());
    client.set_read_timeout(60);
    return client;
  }
  httplib::Result post(const std::string& path, const std::string& body) const {
    return client().Post(path, body, "application/json");
  }
  int port() const { return server_->port(); }
  ServedModel& model() const { return *models_.all().front(); }
  HttpServer& server() { return *server_; }

 private:
  ModelSet models_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

Json parsed(const httplib::Result& result) {
  EXPECT_TRUE(result) << httplib::to_string(result.error());
  return result ? Json::parse(result->body) : Json();
}

std::vector<Json> events(const std::string& body) {
  std::vector<Json> out;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    EXPECT_NE(end, std::string::npos) << "an event without an end";
    if (end == std::string::npos) break;
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event.starts_with(":")) continue;
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    if (event == "data: [DONE]") {
      EXPECT_EQ(at, body.size()) << "something follows [DONE]";
      return out;
    }
    out.push_back(Json::parse(event.substr(6)));
  }
  ADD_FAILURE() << "no [DONE]";
  return out;
}

const std::string kChat =
    R"({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "seed": 1,
        "max_tokens": 12)";

TEST(http, a_chat_whole_and_streamed_is_the_same) {
  const Running server;
  const Json whole = parsed(server.post("/v1/chat/completions", kChat + "}"));
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(whole["usage"]["total_tokens"].get<int>(),
            whole["usage"]["prompt_tokens"].get<int>() +
                whole["usage"]["completion_tokens"].get<int>());

  const auto result = server.post(
      "/v1/chat/completions",
      kChat + R"(, "stream": true, "stream_options": {"include_usage": true}})");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
  const std::vector<Json> chunks = events(result->body);
  ASSERT_GE(chunks.size(), 3u);
  EXPECT_EQ(chunks.front()["choices"][0]["delta"]["role"], "assistant");
  std::string text, finish;
  for (const Json& chunk : chunks) {
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(chunk["id"], chunks.front()["id"]);
    if (chunk["choices"].empty()) continue;
    text += chunk["choices"][0]["delta"].value("content", "");
    if (!chunk["choices"][0]["finish_reason"].is_null())
      finish = chunk["choices"][0]["finish_reason"];
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
  EXPECT_EQ(finish, whole["choices"][0]["finish_reason"]);
  EXPECT_TRUE(chunks.back()["choices"].empty());
  EXPECT_EQ(chunks.back()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
}

TEST(http, choices_differ_and_the_first_is_the_only_one_of_n_1) {
  const Running server;
  const Json one = parsed(server.post("/v1/chat/completions", kChat + "}"));
  const Json three = parsed(server.post("/v1/chat/completions", kChat + R"(, "n": 3})"));
  ASSERT_EQ(three["choices"].size(), 3u);
  EXPECT_EQ(three["choices"][0]["message"], one["choices"][0]["message"]);
  EXPECT_NE(three["choices"][1]["message"], three["choices"][2]["message"]);
  EXPECT_EQ(three["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
}

TEST(http, logprobs_name_every_token) {
  const Running server;
  const Json chat = parsed(
      server.post("/v1/chat/completions", kChat + R"(, "logprobs": true, "top_logprobs": 2})"));
  const Json& content = chat["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(content.size(), chat["usage"]["completion_tokens"].get<size_t>());
  for (const Json& entry : content) {
    EXPECT_LE(entry["logprob"].get<double>(), 0);
    EXPECT_EQ(entry["top_logprobs"].size(), 2u);
    EXPECT_TRUE(entry["bytes"].is_array());
  }
  const Json text = parsed(
      server.post("/v1/completions", R"({"prompt": "ab", "max_tokens": 5, "logprobs": 2})"));
  EXPECT_EQ(text["object"], "text_completion");
  EXPECT_EQ(text["choices"][0]["logprobs"]["tokens"].size(), 5u);
  EXPECT_EQ(text["choices"][0]["logprobs"]["text_offset"][0], 0);
}

// What evaluations ask for: how likely the model finds a text that is given.
TEST(http, an_echoed_prompt_has_logprobs_too) {
  const Running server;
  const std::string ask = R"({"prompt": "abc", "echo": true, "logprobs": 2, "max_tokens": 2,
                              "ignore_eos": true, "temperature": 0)";
  const Json choice = parsed(server.post("/v1/completions", ask + "}"))["choices"][0];
  const Json& logprobs = choice["logprobs"];
  const size_t answer = 2, prompt = logprobs["tokens"].size() - answer;
  ASSERT_GE(prompt, 2u);
  for (const char* const name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    EXPECT_EQ(logprobs[name].size(), prompt + answer) << name;
  EXPECT_EQ(logprobs["token_logprobs"][0], nullptr) << "nothing precedes it";
  EXPECT_EQ(logprobs["top_logprobs"][0], nullptr);
  EXPECT_LT(logprobs["token_logprobs"][1], 0);
  EXPECT_EQ(logprobs["text_offset"][prompt], 3);
  // The greedy answer, given as a prompt, is as likely as when it was made.
  const Json again = parsed(server.post(
      "/v1/completions", Json({{"prompt", choice["text"]}, {"echo", true}, {"logprobs", 0},
                               {"max_tokens", 1}}).dump()))["choices"][0]["logprobs"];
  if (again["tokens"].size() == prompt + answer + 1) {  // cut into the same tokens
    for (size_t i = 0; i < answer; ++i)
      EXPECT_EQ(again["token_logprobs"][prompt + i], logprobs["token_logprobs"][prompt + i]);
  }
  const Json prompt_alone = parsed(server.post(
      "/v1/completions",
      R"({"prompt": "abc", "echo": true, "logprobs": 0, "max_tokens": 0})"));
  EXPECT_EQ(prompt_alone["choices"][0]["text"], "abc");
  EXPECT_EQ(prompt_alone["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(prompt_alone["choices"][0]["logprobs"]["tokens"].size(), prompt);
  EXPECT_EQ(prompt_alone["usage"]["completion_tokens"], 0);
  const auto streamed =
      events(server.post("/v1/completions", ask + R"(, "stream": true})")->body);
  EXPECT_EQ(streamed.front()["choices"][0]["text"], "abc");
  EXPECT_EQ(streamed.front()["choices"][0]["logprobs"]["tokens"].size(), prompt);
}

TEST(http, a_stop_string_ends_the_answer_before_it) {
  const Running server;
  const std::string text = parsed(
      server.post("/v1/completions",
                  R"({"prompt": "ab", "max_tokens": 40, "temperature": 0})"))["choices"][0]["text"];
  // Two ASCII characters of the answer, from somewhere inside it.
  size_t at = 4;
  while (at + 1 < text.size() && ((text[at] | text[at + 1]) & 0x80) != 0) ++at;
  ASSERT_LT(at + 1, text.size()) << text;
  const std::string stop = text.substr(at, 2);
  const Json stopped = parsed(server.post(
      "/v1/completions",
      Json({{"prompt", "ab"}, {"max_tokens", 40}, {"temperature", 0}, {"stop", stop}}).dump()));
  EXPECT_EQ(stopped["choices"][0]["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
}

TEST(http, models_tokens_and_health) {
  const Running server;
  const Json models = parsed(server.client().Get("/v1/models"));
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(parsed(server.client().Get("/v1/models/tiny"))["id"], "tiny");
  EXPECT_EQ(server.client().Get("/v1/models/other")->status, 404);
  EXPECT_EQ(parsed(server.client().Get("/health"))["status"], "ok");
  const Json tokens = parsed(server.post("/tokenize", R"({"content": "Hello, world"})"));
  EXPECT_EQ(parsed(server.post("/detokenize", tokens.dump()))["content"], "Hello, world");
  const Json props = parsed(server.client().Get("/props"));
  EXPECT_EQ(props["context_length"], 256);
  EXPECT_TRUE(props["build"].get<std::string>().starts_with("weft ")) << props;
  EXPECT_EQ(props["template_takes_tools"], true);
  EXPECT_EQ(props["techniques"]["kv"], "16 bit");
  EXPECT_EQ(props["techniques"]["isolated"], false);
}

TEST(http, embeddings_as_numbers_and_as_base64) {
  const Running server;
  const Json numbers = parsed(
      server.post("/v1/embeddings", R"({"input": ["Hello", [1, 2, 3]], "model": "tiny"})"));
  ASSERT_EQ(numbers["data"].size(), 2u);
  const auto values = numbers["data"][0]["embedding"].get<std::vector<float>>();
  double square = 0;
  for (const float value : values) square += double{value} * value;
  EXPECT_NEAR(square, 1, 1e-5);
  const Json packed = parsed(
      server.post("/v1/embeddings", R"({"input": "Hello", "encoding_format": "base64"})"));
  const std::string text = packed["data"][0]["embedding"];
  EXPECT_EQ(text.size(), (values.size() * 4 + 2) / 3 * 4);
  // The first three bytes by hand: four characters of six bits.
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint32_t bits = 0;
  for (size_t i = 0; i < 4; ++i) bits = bits << 6 | static_cast<uint32_t>(alphabet.find(text[i]));
  uint32_t first = 0;
  std::memcpy(&first, values.data(), sizeof first);
  EXPECT_EQ(bits, (first & 0xff) << 16 | (first & 0xff00) | (first >> 16 & 0xff));
  EXPECT_EQ(server.post("/v1/embeddings", R"({"input": "x", "encoding_format": "hex"})")->status, 400);
}

TEST(http, metrics_count_what_happened) {
  const Running server;
  parsed(server.post("/v1/completions", R"({"prompt": "ab", "max_tokens": 5, "ignore_eos": true})"));
  const std::string text = server.client().Get("/metrics")->body;
  EXPECT_NE(text.find("weft_generated_tokens_total{model=\"tiny\"} 5\n"), std::string::npos) << text;
  EXPECT_NE(text.find("weft_time_to_first_token_seconds_count{model=\"tiny\"} 1\n"),
            std::string::npos);
  const Json state = parsed(server.client().Get("/weft/state"));
  EXPECT_EQ(state["requests"]["finished"], 1);
  EXPECT_EQ(state["kv"]["blocks_total"].get<int>() * state["kv"]["block_tokens"].get<int>(), 1024);
  EXPECT_EQ(state["kv"]["policy"], "16 bit");
  EXPECT_EQ(state["kv"]["bytes"]["4"], 0);
  EXPECT_NE(text.find("weft_kv_code_bytes{model=\"tiny\",bits=\"4\"} 0\n"), std::string::npos);
}

TEST(http, errors_are_openais) {
  const Running server;
  const auto error_of = [&](const httplib::Result& result, int status) {
    EXPECT_TRUE(result);
    EXPECT_EQ(result->status, status) << result->body;
    return Json::parse(result->body)["error"];
  };
  const Json bad = error_of(server.post("/v1/chat/completions", kChat + R"(, "n": "x"})"), 400);
  EXPECT_EQ(bad["type"], "invalid_request_error");
  EXPECT_EQ(bad["param"], "n");
  EXPECT_EQ(error_of(server.post("/v1/chat/completions", "{"), 400)["param"], nullptr);
  EXPECT_EQ(error_of(server.client().Get("/v2/nothing"), 404)["type"], "not_found_error");
  const std::string longer(2000, 'a');
  EXPECT_EQ(error_of(server.post("/v1/completions", Json({{"prompt", longer}}).dump()),
                     400)["code"],
            "context_length_exceeded");
}

// A budget of memory that ends before the answer does: said at once.
TEST(http, an_answer_longer_than_the_budget_of_keys_and_values_is_refused) {
  text::TextModelOptions model = {.context = 512};
  const size_t block_bytes = load_test_model(model)->memory_plan().kv_bytes / (512 / 32);
  model.kv = {.mode = text::KvMode::kProgressive,
              .widths = {8, 8},
              .budget_bytes = 12 * block_bytes};
  TestModelOptions options;
  options.model = model;
  const Running server({}, options);
  ASSERT_TRUE(server.model().model().kv_limits_context());
  const size_t context = server.model().model().context_length();
  const auto ask = [&](size_t max_tokens) {
    return server.post("/v1/completions",
                       Json({{"prompt", {5, 6, 7}}, {"max_tokens", max_tokens}}).dump());
  };
  const auto answered = ask(4);
  EXPECT_EQ(answered->status, 200);
  const Json kv = Json::parse(answered->body)["usage"]["kv"];
  EXPECT_NE(kv["policy"].get<std::string>().find("progressive to 8 bit"), std::string::npos) << kv;
  EXPECT_GT(kv["bytes"]["16"], 0);
  EXPECT_EQ(kv["bytes"]["8"], 0);
  const auto refused = ask(context);
  ASSERT_EQ(refused->status, 400);
  const Json error = Json::parse(refused->body)["error"];
  EXPECT_EQ(error["param"], "max_tokens");
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_NE(error["message"].get<std::string>().find(fmt::format("room for {}.", context - 3)),
            std::string::npos)
      << error;
}

// As it comes from the wire; tests/data/openai_client/record.py made the file.
TEST(http, what_openais_client_sends_is_answered) {
  const Running server({.api_keys = {"secret"}});
  std::ifstream lines(WEFT_SOURCE_DIR "/tests/data/openai_client/requests.jsonl");
  size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    SCOPED_TRACE("line " + std::to_string(++number));
    const Json request = Json::parse(line);
    const auto result = server.client().Post(
        request["path"].get<std::string>(), {{"Authorization", request["authorization"]}},
        request["body"].dump(), request["content_type"].get<std::string>());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->status, 200) << result->body;
    if (request["body"].value("stream", false)) {
      const std::vector<Json> chunks = events(result->body);
      EXPECT_FALSE(chunks.empty());
      if (request["body"].contains("stream_options")) {
        EXPECT_TRUE(chunks.back()["usage"].is_object()) << "the last chunk tells the usage";
      }
    } else {
      EXPECT_TRUE(Json::parse(result->body)["usage"].is_object());
    }
  }
  EXPECT_EQ(number, 35u);
}

TEST(http, keys_are_asked_for) {
  const Running server({.api_keys = {"secret", "other"}});
  EXPECT_EQ(server.client().Get("/v1/models")->status, 401);
  EXPECT_EQ(server.client().Get("/health")->status, 200);
  for (const char* const key : {"secret", "other"}) {
    const httplib::Headers headers = {{"Authorization", std::string("Bearer ") + key}};
    EXPECT_EQ(server.client().Get("/v1/models", headers)->status, 200) << key;
  }
  for (const char* const key : {"", "secre", "secrets", "Secret"}) {
    const httplib::Headers headers = {{"Authorization", std::string("Bearer ") + key}};
    EXPECT_EQ(server.client().Get("/v1/models", headers)->status, 401) << key;
  }
}

// The prompt tokens of a second request that its key's cache, or another's, had already.
TEST(http, a_prefix_is_reused_for_its_own_key_where_asked) {
  for (const bool per_key : {false, true}) {
    const Running server({.api_keys = {"ann", "bob"}, .prefixes_per_key = per_key});
    const std::string body =
        Json({{"prompt", std::string(64, 'x')}, {"max_tokens", 1}, {"temperature", 0}}).dump();
    const auto cached = [&](const std::string& key) {
      const auto result = server.client().Post(
          "/v1/completions", {{"Authorization", "Bearer " + key}}, body, "application/json");
      const Json usage = parsed(result)["usage"];
      return usage["prompt_tokens_details"]["cached_tokens"].get<int>();
    };
    EXPECT_EQ(cached("ann"), 0);
    EXPECT_GT(cached("ann"), 0);
    if (per_key)
      EXPECT_EQ(cached("bob"), 0);
    else
      EXPECT_GT(cached("bob"), 0);
  }
}

TEST(http, answers_have_the_form_that_is_asked_for) {
  const Running server;
  const Json whole = parsed(server.post(
      "/v1/completions",
      R"({"prompt": "Is it?", "max_tokens": 40, "grammar": "root ::= \"yes\" | \"no\""})"));
  const std::string text = whole["choices"][0]["text"];
  EXPECT_TRUE(text == "yes" || text == "no") << whole;
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");

  // A seed and room: any white space is allowed between JSON's tokens, and a random model may like it.
  const Json chat = parsed(server.post("/v1/chat/completions", R"({
      "messages": [{"role": "user", "content": "Which?"}], "max_tokens": 400, "seed": 1,
      "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {
        "type": "object", "required": ["colour", "ok"], "properties": {
          "colour": {"enum": ["red", "green"]}, "ok": {"type": "boolean"}}}}}})"));
  const Json answer = Json::parse(chat["choices"][0]["message"]["content"].get<std::string>());
  EXPECT_TRUE(answer["colour"] == "red" || answer["colour"] == "green") << answer;
  EXPECT_TRUE(answer["ok"].is_boolean()) << answer;

  const Json called = parsed(server.post("/v1/chat/completions", R"({
      "messages": [{"role": "user", "content": "Which?"}], "max_tokens": 400, "seed": 1,
      "tool_choice": "required", "tools": [{"type": "function", "function": {"name": "paint",
        "parameters": {"type": "object", "required": ["colour"], "properties": {
          "colour": {"enum": ["red", "green"]}}}}}], "parallel_tool_calls": false})"));
  EXPECT_EQ(called["choices"][0]["finish_reason"], "tool_calls") << called;
  const Json call = called["choices"][0]["message"]["tool_calls"][0];
  EXPECT_EQ(call["function"]["name"], "paint");
  const Json arguments = Json::parse(call["function"]["arguments"].get<std::string>());
  EXPECT_TRUE(arguments["colour"] == "red" || arguments["colour"] == "green") << called;
}

TEST(http, other_origins_ask_only_where_allowed) {
  const Running open({.cors_origin = "*"});
  EXPECT_EQ(open.client().Options("/v1/models")->status, 204);
  EXPECT_EQ(open.client().Get("/health")->get_header_value("Access-Control-Allow-Origin"), "*");
  const Running closed;
  EXPECT_FALSE(closed.client().Get("/health")->has_header("Access-Control-Allow-Origin"));
}

TEST(http, a_body_too_long_is_refused) {
  const Running server({.max_body_bytes = 1000});
  const auto result = server.post("/v1/completions", std::string(5000, ' '));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 413);
  EXPECT_NE(parsed(result)["error"]["message"].get<std::string>().find("1000 bytes"),
            std::string::npos);
  EXPECT_EQ(result->get_header_value("Connection"), "close");
}

// Waits until no job is left.
bool drained(const Running& server) {
  const Clock::time_point deadline = Clock::now() + std::chrono::seconds(30);
  while (!server.model().jobs().empty() && Clock::now() < deadline) std::this_thread::yield();
  return server.model().jobs().empty();
}

int open_and_send(int port, const std::string& text) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::send(fd, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return fd;
}

std::string raw_request(const std::string& body) {
  return "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

TEST(http, vanish) {
  const Running server;
  for (const bool stream : {false, true}) {
    std::vector<int> sockets;
    for (int i = 0; i < 20; ++i)
      sockets.push_back(open_and_send(
          server.port(),
          raw_request(Json({{"prompt", "ab"}, {"max_tokens", 200}, {"stream", stream},
                            {"ignore_eos", true}}).dump())));
    for (const int fd : sockets) close(fd);
    EXPECT_TRUE(drained(server)) << "jobs of clients that left";
  }
  EXPECT_EQ(server.client().Get("/health")->status, 200);
}

TEST(http, a_half_sent_body_holds_up_nobody) {
  const Running server({.read_timeout = std::chrono::seconds(1)});
  const std::string request = raw_request(std::string(500, ' '));
  const int fd = open_and_send(server.port(), request.substr(0, request.size() - 100));
  EXPECT_EQ(server.client().Get("/health")->status, 200);
  close(fd);
}

size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// A thread each: a few pages of stack and a buffer; ASan keeps more, and TSan a megabyte of history.
#if defined(__SANITIZE_THREAD__)
constexpr size_t kIdleThousand = size_t{2} << 30;
#else
constexpr size_t kIdleThousand = size_t{512} << 20;
#endif

TEST(http, a_thousand_idle_connections_leave_room_for_one_that_asks) {
  const Running server;
  EXPECT_EQ(server.client().Get("/health")->status, 200);
  const size_t before = resident_bytes();
  std::vector<int> sockets;
  for (int i = 0; i < 1000; ++i) sockets.push_back(open_and_send(server.port(), "GET "));
  EXPECT_EQ(server.client().Get("/health")->status, 200);
  EXPECT_LT(resident_bytes() - before, kIdleThousand);
  for (const int fd : sockets) close(fd);
}

// Only its head is sent: nobody waits for the rest of it.
TEST(http, a_body_of_100_megabytes_is_refused_unread) {
  const Running server({.read_timeout = std::chrono::hours(1)});
  const int fd = open_and_send(server.port(),
                               "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                               "application/json\r\nContent-Length: 104857600\r\n\r\n{");
  std::string answer(64, '\0');
  const ssize_t got = ::recv(fd, answer.data(), answer.size(), 0);
  answer.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 413")) << answer;
  close(fd);
}

// As curl does with long bodies: it asks before it sends.
TEST(http, a_client_that_asks_first_is_told_that_its_body_is_too_long) {
  const Running server({.max_body_bytes = 1000});
  for (const auto& [length, status] : {std::pair{"5000", "413"}, {"500", "100"}}) {
    const int fd = open_and_send(server.port(),
                                 std::string("POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                                             "Expect: 100-continue\r\nContent-Length: ") +
                                     length + "\r\n\r\n");
    std::string answer(64, '\0');
    const ssize_t got = ::recv(fd, answer.data(), answer.size(), 0);
    answer.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    EXPECT_TRUE(answer.starts_with(std::string("HTTP/1.1 ") + status)) << answer;
    close(fd);
  }
}

// Clients that read nothing of their streams: the answers end all the same, and others go on.
TEST(http, slow_reader) {
  const Running server;
  std::vector<int> sockets;
  for (int i = 0; i < 20; ++i)
    sockets.push_back(open_and_send(
        server.port(), raw_request(Json({{"prompt", "ab"}, {"max_tokens", 200}, {"stream", true},
                                         {"logprobs", 5}, {"ignore_eos", true}}).dump())));
  const Json answer = parsed(server.post(
      "/v1/completions", R"({"prompt": "cd", "max_tokens": 20, "ignore_eos": true})"));
  EXPECT_EQ(answer["usage"]["completion_tokens"], 20);
  EXPECT_TRUE(drained(server)) << "an answer waits for its reader";
  for (const int fd : sockets) close(fd);
}

// Forms that blow up: each is an answer or a clear refusal, soon.
TEST(http, catastrophic_forms_hurt_nobody) {
  const Running server;
  std::string nested = R"({"type": "string"})", many = R"({"type": "object", "properties": {)";
  for (int i = 0; i < 300; ++i) nested = R"({"type": "array", "items": )" + nested + "}";
  for (int i = 0; i < 3000; ++i)
    many += (i == 0 ? "\"k" : ", \"k") + std::to_string(i) + R"(": {"type": "integer"})";
  many += "}}";
  const std::string repeated = R"({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"})";
  for (const std::string& schema : {nested, many, repeated}) {
    const auto result = server.post("/v1/completions", R"({"prompt": "a", "max_tokens": 2,
        "json_schema": )" + schema + "}");
    ASSERT_TRUE(result);
    EXPECT_TRUE(result->status == 200 || result->status == 400) << result->status;
  }
  for (const std::string grammar :
       {R"(root ::= (\"a\"? \"a\"?){500} \"b\")", R"(root ::= root root | \"a\")",
        R"(root ::= ((\"a\"*)*)*)"}) {
    const auto result = server.post("/v1/completions", R"({"prompt": "a", "max_tokens": 2,
        "grammar": ")" + grammar + "\"}");
    ASSERT_TRUE(result);
    EXPECT_TRUE(result->status == 200 || result->status == 400) << result->body;
  }
  EXPECT_EQ(server.client().Get("/health")->status, 200);
}

// Random requests of every kind, from clients that stay and clients that leave, for WEFT_DRILL_SECONDS
// (CI: 2; by hand: 600, under ASan and TSan): each is answered, and every block comes back.
TEST(http, mixed_traffic) {
  const char* const asked = std::getenv("WEFT_DRILL_SECONDS");
  const auto patience = std::chrono::seconds(asked != nullptr ? std::atoi(asked) : 2);
  for (const char* const partition : {"1:1", "2/2:0.5", "2/2:5ms", "unified"}) {
    TestModelOptions model;
    model.kv_tokens = 512;
    model.partition = partition;
    const Running server({}, model);
    std::atomic<size_t> answered{0}, refused{0};
    const Clock::time_point end = Clock::now() + patience / 4;
    const auto ask = [&](uint32_t client) {
      for (uint32_t n = 0; Clock::now() < end || n == 0; ++n) {
        uint32_t at = 0;
        const auto draw = [&](uint32_t below) {
          return philox4x32({n, client, at++, 0}, {17, 4})[0] % below;
        };
        const uint32_t kind = draw(6);
        Json body = {{"max_tokens", 1 + draw(60)}, {"seed", draw(5)}, {"stream", draw(2) == 0},
                     {"n", 1 + draw(3)}, {"temperature", draw(2)}};
        if (kind == 0) body["messages"] = Json::array({{{"role", "user"}, {"content", "Hi"}}});
        else body["prompt"] = std::string(1 + draw(180), static_cast<char>('a' + draw(20)));
        if (kind == 1) body["grammar"] = "root ::= [a-z]+";
        if (kind == 2) body["stop"] = Json::array({"a", "b"});
        if (kind == 3) body["max_tokens"] = -1;
        const std::string path = kind == 0 ? "/v1/chat/completions" : "/v1/completions";
        if (kind == 4) {  // leaves at once
          close(open_and_send(server.port(), raw_request(body.dump())));
          continue;
        }
        const auto result = server.post(path, body.dump());
        ASSERT_TRUE(result) << httplib::to_string(result.error());
        EXPECT_EQ(result->status, kind == 3 ? 400 : 200) << result->body;
        ++(kind == 3 ? refused : answered);
      }
    };
    std::vector<std::thread> clients;
    for (uint32_t client = 0; client < 6; ++client) clients.emplace_back(ask, client);
    for (std::thread& client : clients) client.join();
    EXPECT_GT(answered.load() + refused.load(), 0u);
    EXPECT_TRUE(drained(server));
    const Clock::time_point deadline = Clock::now() + std::chrono::seconds(30);
    ExecutorState state = server.model().executor().state();
    while (state.free_tokens != state.capacity_tokens && Clock::now() < deadline) {
      std::this_thread::yield();
      state = server.model().executor().state();
    }
    EXPECT_EQ(state.free_tokens, state.capacity_tokens) << partition << ": a block was lost";
  }
}

TEST(http, loading_answers_503_until_the_model_is_there) {
  ModelSet models;
  HttpServer server({.port = 0}, models);
  std::thread thread([&] { server.run(); });
  httplib::Client client("127.0.0.1", server.port());
  EXPECT_EQ(client.Get("/health")->status, 503);
  const auto refused = client.Post("/v1/chat/completions", kChat + "}", "application/json");
  EXPECT_EQ(refused->status, 503);
  EXPECT_TRUE(refused->has_header("Retry-After"));
  server.stop(std::chrono::seconds(0));
  thread.join();
}

// As when the model cannot be loaded: whoever runs the server waits for its end.
TEST(http, stopping_at_once_ends_it_too) {
  for (int i = 0; i < 50; ++i) {
    ModelSet models;
    HttpServer server({.port = 0}, models);
    std::thread running([&] { server.run(); });
    if (i % 2 == 0) std::this_thread::yield();
    server.stop(std::chrono::seconds(0));
    running.join();
  }
}

TEST(http, stopping_lets_answers_end) {
  Running server;
  const std::string body =
      Json({{"prompt", "ab"}, {"max_tokens", 100}, {"ignore_eos", true}}).dump();
  std::atomic<int> status{0};
  std::thread asking([&] { status = server.post("/v1/completions", body)->status; });
  while (server.model().jobs().empty() && status == 0) std::this_thread::yield();
  server.stop(std::chrono::seconds(60));
  asking.join();
  EXPECT_EQ(status, 200);
}

// An executor that never gets on, as one whose forward pass waits for a rank that has died.
class Stuck final : public PhaseExecutor {
 public:
  const char* name() const override { return "stuck"; }
  void submit(std::shared_ptr<Job>) override {}
  void wake() override {}
  ExecutorState state() const override { return {}; }
  const Metrics& metrics() const override { return metrics_; }
  void compute(const std::function<void(const CoreSet&)>&) override {}

 private:
  Metrics metrics_;
};

TEST(http, stopping_tells_those_who_still_wait_why) {
  Running server(std::make_unique<ServedModel>("stuck", load_test_model(),
                                               std::make_unique<Stuck>()));
  Json request = {{"prompt", "ab"}, {"max_tokens", 100}};
  const std::string whole_request = request.dump();
  request["stream"] = true;
  std::optional<httplib::Result> whole, stream;
  std::thread asking([&] { whole = server.post("/v1/completions", whole_request); });
  std::thread reading([&] { stream = server.post("/v1/completions", request.dump()); });
  while (server.model().jobs().size() < 2) std::this_thread::yield();
  server.stop(std::chrono::seconds(0), "rank 1 has died");
  asking.join();
  reading.join();
  EXPECT_EQ(parsed(*whole)["error"]["message"], "rank 1 has died");
  EXPECT_EQ((*whole)->status, 503);
  ASSERT_TRUE(*stream) << httplib::to_string(stream->error());
  const std::string& events = (*stream)->body;
  ASSERT_TRUE(events.starts_with("data: ") && events.ends_with("\n\n")) << events;
  EXPECT_EQ(Json::parse(events.substr(events.rfind("data: ") + 6))["error"]["message"],
            "rank 1 has died");
}

}  // namespace
}  // namespace weft::serve
