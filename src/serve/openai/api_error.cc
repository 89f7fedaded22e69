#include "serve/openai/api_error.h"

namespace weft::serve::openai {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

nlohmann::ordered_json or_null(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
}

}  // namespace

nlohmann::ordered_json ApiError::body() const {
  return {{"error",
           {{"message", what()},
            {"type", type_of(status)},
            {"param", or_null(param)},
            {"code", or_null(code)}}}};
}

ApiError to_api_error(const Error& error) {
  if (error.kind() != ErrorKind::kOutOfResources)
    return ApiError(http_status(error.kind()), error.what());
  ApiError busy(429, error.what(), "", "queue_full");
  busy.retry_after_s = 1;
  return busy;
}

}  // namespace weft::serve::openai
