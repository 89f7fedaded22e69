// Errors as OpenAI's clients read them: a status and
// {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "base/error.h"

namespace weft::serve::openai {

struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message, std::string field = {},
           std::string error_code = {})
      : std::runtime_error(message),
        status(http_status),
        param(std::move(field)),
        code(std::move(error_code)) {}
  int status;
  std::string param;  // the request's field; empty: null
  std::string code;   // empty: null
  std::optional<int> retry_after_s;

  nlohmann::ordered_json body() const;
};

ApiError to_api_error(const Error& error);

// 400 that names the field.
template <typename... Args>
[[noreturn]] void bad_field(const std::string& field, fmt::format_string<Args...> format,
                            Args&&... args) {
  throw ApiError(400, "'" + field + "' " + fmt::format(format, std::forward<Args>(args)...), field,
                 "invalid_value");
}

}  // namespace weft::serve::openai
