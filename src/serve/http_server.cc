#include "serve/http_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "serve/client_connection.h"
#include "serve/connection_threads.h"
#include "serve/openai/answer.h"
#include "serve/openai/embeddings.h"
#include "serve/openai/responses.h"
#include "serve/page_assets.h"
#include "serve/views.h"

namespace weft::serve {
namespace {

using httplib::Request;
using httplib::Response;
using openai::ApiError;
using openai::Json;

constexpr auto kPoll = std::chrono::milliseconds(250);  // between two looks at whether a client left
constexpr auto kPing = std::chrono::seconds(15);        // of silence, before a comment is sent
constexpr auto kGoOnSending = std::chrono::seconds(2);  // a client, whose body nobody wants
constexpr auto kLastWords = 2 * kPoll;  // for streams that are told to end

void send(Response& response, int status, const Json& body) {
  response.status = status;
  response.set_content(body.dump(-1, ' ', false, Json::error_handler_t::replace),
                       "application/json");
}

void send(Response& response, const ApiError& error) {
  if (error.retry_after_s)
    response.set_header("Retry-After", std::to_string(*error.retry_after_s));
  send(response, error.status, error.body());
}

bool is_page(const std::string& path) {
  if (path == "/") return true;
  for (const PageAsset& asset : page_assets())
    if (asset.path == path) return true;
  return false;
}

// Takes as long for every wrong key, whatever it begins with.
bool same_key(const std::string& given, const std::string& key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < key.size(); ++i)
    difference |= static_cast<unsigned char>(key[i]) ^
                  static_cast<unsigned char>(given.empty() ? 0 : given[i % given.size()]);
  return difference == 0;
}

}  // namespace

struct HttpServer::State {
  State(const HttpOptions& o, ModelSet& m) : options(o), models(m) {}

  void add_routes();
  void add_page();
  void bind();
  httplib::Server::HandlerResponse admit(const Request& request, Response& response);
  bool is_too_long(const Request& request) const;
  void refuse_body(const Request& request, Response& response) const;
  std::optional<size_t> key_of(const Request& request) const;
  ServedModel& model_for(const Json& body) const;
  ServedModel& only_ready(ServedModel* model) const;

  // Runs `answer`, with its errors as OpenAI's.
  template <typename Answer>
  httplib::Server::Handler handler(Answer answer) {
    return [answer](const Request& request, Response& response) {
      try {
        answer(request, response);
      } catch (const ApiError& error) {
        send(response, error);
      } catch (const Error& error) {
        send(response, openai::to_api_error(error));
      } catch (const std::exception& error) {
        send(response, ApiError(500, error.what()));
      }
    };
  }

  void complete(const Request& request, Response& response, bool chat);
  void complete_whole(const Request& request, Response& response, openai::Answer& answer);
  void complete_streamed(const Request& request, Response& response,
                         std::shared_ptr<openai::Answer> answer, std::shared_ptr<void> counted);

  const HttpOptions options;
  ModelSet& models;
  std::unique_ptr<httplib::Server> server;
  int port = 0;
  std::atomic<int> listening_socket{-1};
  enum class Phase : uint8_t { kIdle, kRunning, kEnded };
  std::mutex phase_mutex;  // guards phase
  Phase phase = Phase::kIdle;
  std::atomic<bool> draining{false};  // no new requests
  std::string why_hurry;              // written before hurry
  std::atomic<bool> hurry{false};     // those under way end now
  std::atomic<size_t> answering{0};   // requests whose client has yet to be told something
};

// Which of the keys a request brings; without any, 0 for all.
std::optional<size_t> HttpServer::State::key_of(const Request& request) const {
  if (options.api_keys.empty()) return 0;
  std::string given = request.get_header_value("Authorization");
  constexpr std::string_view kBearer = "Bearer ";
  if (given.starts_with(kBearer)) given.erase(0, kBearer.size());
  std::optional<size_t> found;
  for (size_t i = 0; i < options.api_keys.size(); ++i)
    if (same_key(given, options.api_keys[i])) found = i;
  return found;
}

bool HttpServer::State::is_too_long(const Request& request) const {
  return request.get_header_value<uint64_t>("Content-Length") > options.max_body_bytes;
}

// Answers without having read the body. (The library reads to its end first, whatever its length.)
void HttpServer::State::refuse_body(const Request& request, Response& response) const {
  const ApiError error(
      413, fmt::format("the request body is longer than {} bytes", options.max_body_bytes));
  const auto client = std::make_shared<ClientConnection>(request);
  const auto text = std::make_shared<std::string>(error.body().dump());
  response.status = error.status;
  response.set_header("Connection", "close");
  response.set_content_provider(
      text->size(), "application/json",
      [text](size_t offset, size_t length, httplib::DataSink& sink) {
        return sink.write(text->data() + offset, length);
      },
      [client](bool) { client->close_after(kGoOnSending); });  // once it is written
}

// Before every route: CORS, keys, shutting down, bodies that are too long.
httplib::Server::HandlerResponse HttpServer::State::admit(const Request& request,
                                                          Response& response) {
  using enum httplib::Server::HandlerResponse;
  if (!options.cors_origin.empty()) {
    response.set_header("Access-Control-Allow-Origin", options.cors_origin);
    if (options.cors_origin != "*") response.set_header("Vary", "Origin");
    if (request.method == "OPTIONS") {
      response.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
      response.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, *");
      response.set_header("Access-Control-Max-Age", "86400");
      response.status = 204;
      return Handled;
    }
  }
  const bool open = request.path == "/health" || is_page(request.path);
  if (!open && !key_of(request)) {
    response.set_header("WWW-Authenticate", "Bearer");
    send(response, ApiError(401, "the API key is missing or wrong: send it as 'Authorization: "
                                 "Bearer KEY'",
                            "", "invalid_api_key"));
    return Handled;
  }
  if (draining.load() && request.method == "POST") {
    response.set_header("Retry-After", "5");
    send(response, ApiError(503, "the server is shutting down"));
    return Handled;
  }
  if (is_too_long(request)) {
    refuse_body(request, response);
    return Handled;
  }
  return Unhandled;
}

ServedModel& HttpServer::State::only_ready(ServedModel* model) const {
  if (model == nullptr) {
    ApiError loading(503, "the model is still being loaded", "", "model_loading");
    loading.retry_after_s = 1;
    throw loading;
  }
  return *model;
}

// The model that the request names; with one model only, any name will do for clients that insist
// on OpenAI's own.
ServedModel& HttpServer::State::model_for(const Json& body) const {
  const auto name = openai::Fields(body).string("model");
  const std::vector<ServedModel*> all = models.all();
  if (name)
    if (ServedModel* const found = models.find(*name)) return *found;
  if (!models.ready()) only_ready(nullptr);
  if (name && all.size() > 1)
    throw ApiError(404, fmt::format("there is no model '{}'; /v1/models lists them", *name), "model",
                   "model_not_found");
  return only_ready(all.empty() ? nullptr : all.front());
}

void HttpServer::State::complete(const Request& request, Response& response, bool chat) {
  answering.fetch_add(1);  // before the answer can be seen to be under way
  const std::shared_ptr<void> counted(this, [this](void*) { answering.fetch_sub(1); });
  const Json body = openai::parse_body(request.body);
  ServedModel& model = model_for(body);
  openai::AnswerRequest wanted =
      chat ? openai::parse_chat_request(body, model.model(), options.defaults)
           : openai::parse_completion_request(body, model.model(), options.defaults);
  if (options.prefixes_per_key) wanted.prefix_scope = key_of(request).value();
  auto answer = std::make_shared<openai::Answer>(model, std::move(wanted));
  if (answer->request().stream)
    complete_streamed(request, response, std::move(answer), counted);
  else
    complete_whole(request, response, *answer);
}

void HttpServer::State::complete_whole(const Request& request, Response& response,
                                       openai::Answer& answer) {
  const ClientConnection client(request);
  const openai::ResponseHead head = openai::new_head(answer);
  openai::WholeResponse whole(answer);
  while (!answer.done()) {
    if (client.gone()) throw ApiError(499, "the client has closed the connection");
    if (hurry.load()) throw ApiError(503, why_hurry);
    for (const openai::Answer::Piece& piece : answer.wait(kPoll)) whole.add(piece);
  }
  send(response, 200, whole.body(head, answer));
}

void HttpServer::State::complete_streamed(const Request& request, Response& response,
                                          std::shared_ptr<openai::Answer> answer,
                                          std::shared_ptr<void> counted) {
  struct Stream {
    std::shared_ptr<openai::Answer> answer;
    openai::StreamedResponse events;
    ClientConnection client;
    Clock::time_point last_write = Clock::now();
    bool begun = false;
  };
  auto stream = std::make_shared<Stream>(
      Stream{answer, openai::StreamedResponse(openai::new_head(*answer), *answer),
             ClientConnection(request)});
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // proxies would collect the events
  const auto next = [this, stream](size_t, httplib::DataSink& sink) {
    std::string out;
    if (!std::exchange(stream->begun, true)) out = stream->events.begin();
    bool ended = false;
    try {
      if (hurry.load()) throw ApiError(503, why_hurry);
      for (const openai::Answer::Piece& piece : stream->answer->wait(kPoll))
        out += stream->events.event(piece);
      ended = stream->answer->done();
      if (ended) out += stream->events.end(*stream->answer);
    } catch (const ApiError& error) {  // the status line has long been sent
      out += openai::StreamedResponse::error_event(error);
      ended = true;
    }
    const Clock::time_point now = Clock::now();
    if (out.empty() && now - stream->last_write > kPing) out = ": waiting\n\n";
    if (out.empty()) return !stream->client.gone();
    stream->last_write = now;
    if (!sink.write(out.data(), out.size())) return false;
    if (ended) sink.done();
    return true;
  };
  // Gone, the answer cancels what is left of it.
  response.set_chunked_content_provider("text/event-stream", next,
                                        [counted](bool) {});
}

void HttpServer::State::add_routes() {
  server->Post("/v1/chat/completions", handler([this](const Request& q, Response& r) {
                 complete(q, r, true);
               }));
  server->Post("/v1/completions", handler([this](const Request& q, Response& r) {
                 complete(q, r, false);
               }));
  server->Post("/v1/embeddings", handler([this](const Request& q, Response& r) {
                 const Json body = openai::parse_body(q.body);
                 send(r, 200, openai::answer_embeddings(body, model_for(body)));
               }));
  server->Get("/v1/models", handler([this](const Request&, Response& r) {
                send(r, 200, views::models(models));
              }));
  server->Get(R"(/v1/models/(.+))", handler([this](const Request& q, Response& r) {
                const std::string name = q.matches[1];
                ServedModel* const model = models.find(name);
                if (model == nullptr)
                  throw ApiError(404, fmt::format("there is no model '{}'", name), "model",
                                 "model_not_found");
                send(r, 200, views::model(*model));
              }));
  server->Post("/tokenize", handler([this](const Request& q, Response& r) {
                 const Json body = openai::parse_body(q.body);
                 send(r, 200, views::tokenize(body, model_for(body).model()));
               }));
  server->Post("/detokenize", handler([this](const Request& q, Response& r) {
                 const Json body = openai::parse_body(q.body);
                 send(r, 200, views::detokenize(body, model_for(body).model()));
               }));
  server->Post("/apply-template", handler([this](const Request& q, Response& r) {
                 const Json body = openai::parse_body(q.body);
                 const openai::AnswerRequest chat = openai::parse_chat_request(
                     body, model_for(body).model(), options.defaults);
                 send(r, 200, {{"prompt", model_for(body).model().tokenizer().decode(
                                              chat.prompts.front(), true)}});
               }));
  server->Get("/health", handler([this](const Request&, Response& r) {
                const openai::Json health = views::health(models);
                send(r, health["status"] == "ok" ? 200 : 503, health);
              }));
  server->Get("/props", handler([this](const Request&, Response& r) {
                send(r, 200, views::props(models, options.defaults));
              }));
  server->Get("/weft/state", handler([this](const Request&, Response& r) {
                send(r, 200, views::state(models));
              }));
  server->Get("/metrics", handler([this](const Request&, Response& r) {
                r.set_content(views::metrics(models), "text/plain; version=0.0.4");
              }));
}

void HttpServer::State::add_page() {
  for (const PageAsset& asset : page_assets()) {
    const auto serve = [&asset](const Request& request, Response& response) {
      response.set_header("ETag", std::string(asset.etag));
      response.set_header("Cache-Control", "no-cache");
      response.set_header("Content-Security-Policy",
                          "default-src 'self'; img-src 'self' data:; style-src 'self'");
      response.set_header("X-Content-Type-Options", "nosniff");
      if (request.get_header_value("If-None-Match") == asset.etag) {
        response.status = 304;
        return;
      }
      response.set_content(asset.bytes.data(), asset.bytes.size(), std::string(asset.content_type));
    };
    std::string pattern;
    for (const char c : asset.path) pattern += c == '.' ? "\\." : std::string(1, c);
    server->Get(pattern, serve);
    if (asset.path == "/index.html") server->Get("/", serve);
  }
}

void HttpServer::State::bind() {
  server->set_socket_options([this](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    listening_socket.store(socket);
  });
  errno = 0;
  port = options.port;
  const bool bound = options.port == 0
                         ? (port = server->bind_to_any_port(options.host)) > 0
                         : server->bind_to_port(options.host, options.port);
  if (!bound)
    fail(ErrorKind::kIo, "cannot listen on {}:{}: {}. Choose another --host or --port.",
         options.host, options.port, errno != 0 ? std::strerror(errno) : "no such host");
  // The library's queue of five would turn a crowd away that arrives at once.
  ::listen(listening_socket.load(), 1024);
}

HttpServer::HttpServer(const HttpOptions& options, ModelSet& models)
    : state_(std::make_unique<State>(options, models)) {
  State& s = *state_;
  if (options.tls_certificate.empty() != options.tls_key.empty())
    fail(ErrorKind::kInvalidInput, "--tls-cert and --tls-key go together");
  if (options.tls_certificate.empty())
    s.server = std::make_unique<httplib::Server>();
  else
    s.server = std::make_unique<httplib::SSLServer>(options.tls_certificate.c_str(),
                                                    options.tls_key.c_str());
  if (!s.server->is_valid())
    fail(ErrorKind::kInvalidInput, "{} and {} are not a certificate and its key, in PEM form",
         options.tls_certificate.string(), options.tls_key.string());
  s.server->new_task_queue = [&options = s.options] {
    return new ConnectionThreads(options.max_connections);  // the library deletes it
  };
  s.server->set_payload_max_length(options.max_body_bytes);
  s.server->set_read_timeout(options.read_timeout);
  s.server->set_write_timeout(options.write_timeout);
  s.server->set_keep_alive_timeout(options.keep_alive.count());
  s.server->set_keep_alive_max_count(1000);
  s.server->set_tcp_nodelay(true);
  s.server->set_pre_routing_handler(
      [&s](const Request& q, Response& r) { return s.admit(q, r); });
  s.server->set_expect_100_continue_handler(
      [&s](const Request& q, Response& r) { return r.status = s.is_too_long(q) ? 413 : 100; });
  s.server->set_error_handler([&s](const Request& q, Response& r) {
    if (!r.body.empty()) return;  // ours, already
    if (r.status == 413)
      send(r, ApiError(413, fmt::format("the request body is longer than {} bytes",
                                        s.options.max_body_bytes)));
    else if (r.status == 404)
      send(r, ApiError(404, fmt::format("there is no {} {}", q.method, q.path)));
    else if (r.status >= 400)
      send(r, ApiError(r.status, "the request could not be read"));
  });
  s.add_routes();
  s.add_page();
  s.bind();
}

HttpServer::~HttpServer() = default;

int HttpServer::port() const { return state_->port; }

std::string HttpServer::address() const {
  const std::string& host = state_->options.host;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("{}://{}:{}", state_->options.tls_certificate.empty() ? "http" : "https",
                     v6 ? "[" + host + "]" : host, state_->port);
}

void HttpServer::run() {
  using Phase = State::Phase;
  {
    const std::lock_guard lock(state_->phase_mutex);
    if (state_->phase == Phase::kEnded) return;  // stopped before it began
    state_->phase = Phase::kRunning;
  }
  const bool listened = state_->server->listen_after_bind();
  {
    const std::lock_guard lock(state_->phase_mutex);
    state_->phase = Phase::kEnded;
  }
  if (!listened && !state_->draining.load())
    fail(ErrorKind::kIo, "the server's socket has failed");
}

void HttpServer::stop(std::chrono::milliseconds patience, const std::string& why) {
  state_->draining.store(true);
  const Clock::time_point deadline = Clock::now() + patience;
  const auto busy = [this] {
    for (ServedModel* const model : state_->models.all())
      if (!model->jobs().empty()) return true;
    return state_->answering.load() != 0;
  };
  while (busy() && Clock::now() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  state_->why_hurry = why;
  state_->hurry.store(true);
  // Once it is stopped, the library cuts streams off without asking for their next piece, which says
  // why they end.
  const Clock::time_point cut = Clock::now() + kLastWords;
  while (state_->answering.load() != 0 && Clock::now() < cut)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  {
    const std::lock_guard lock(state_->phase_mutex);
    if (state_->phase == State::Phase::kIdle) state_->phase = State::Phase::kEnded;
  }
  // The library takes no notice of a stop before it has begun to listen.
  const auto starts = [this] {
    const std::lock_guard lock(state_->phase_mutex);
    return state_->phase == State::Phase::kRunning && !state_->server->is_running();
  };
  while (starts()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  state_->server->stop();
}

}  // namespace weft::serve
