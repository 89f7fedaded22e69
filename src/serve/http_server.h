// The HTTP side: OpenAI's API, the page, health and metrics. One thread for each open connection
// parses, tokenises and formats; executors compute.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "serve/openai/requests.h"
#include "serve/served_model.h"

namespace weft::serve {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                     // 0: any free one
  std::vector<std::string> api_keys = {};   // none: everybody may ask
  // Prompts reuse what the KV cache keeps of requests with the same key alone. Otherwise of all:
  // how soon an answer begins then tells whether somebody has asked alike before.
  bool prefixes_per_key = false;
  std::string cors_origin = {};             // "*" or an origin; empty: browsers' pages from here alone
  std::filesystem::path tls_certificate = {}, tls_key = {};  // both or none
  size_t max_body_bytes = size_t{8} << 20;
  size_t max_connections = 1024;
  std::chrono::seconds read_timeout{30}, write_timeout{30};  // without a byte moving
  std::chrono::seconds keep_alive{30};                       // an idle connection's life
  openai::RequestDefaults defaults = {};
};

class HttpServer {
 public:
  // Binds at once, so that a port in use is known before a model is loaded. kInvalidInput: a
  // certificate that does not load; kIo: host and port cannot be bound (says why).
  HttpServer(const HttpOptions& options, ModelSet& models);
  ~HttpServer();

  int port() const;
  std::string address() const;  // "http://127.0.0.1:8080"

  // Serves until stop(). Requests for models answer 503 until the models are ready.
  void run();
  // New requests are refused with 503 from now on; those under way may go on for `patience`, and end
  // with an error that says why, in half a second more. Then run() returns. Thread-safe, once.
  void stop(std::chrono::milliseconds patience,
            const std::string& why = "the server is shutting down");

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::serve
