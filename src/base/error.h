// The one exception type of Weft, and the asserts that catch our own mistakes.
// The world's faults (files, flags, requests, peers, memory) are Errors; ours are WEFT_ASSERTs.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace weft {

// A kind exists only where a caller acts differently on it.
enum class ErrorKind {
  kInvalidInput,    // a flag, request or file is wrong: change it and try again
  kNotFound,        // a file, model or tensor that was named is not there
  kUnsupported,     // well-formed, but this build or version cannot do it
  kOutOfResources,  // memory, disk, queue or context is full
  kIo,              // the operating system refused a read or write
  kTimeout,
  kCancelled,       // the user or client asked to stop
  kPeerLost,        // another rank or process disappeared
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

  // The same error with the place it happened put in front: "model.gguf: ...".
  Error in(std::string_view where) const {
    return Error(kind_, fmt::format("{}: {}", where, what()));
  }

 private:
  ErrorKind kind_;
};

template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

const char* name(ErrorKind kind);   // "invalid_input", as logs and API errors print it
int exit_code(ErrorKind kind);      // of the process that ends with it; never 0
int http_status(ErrorKind kind);

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace weft

#define WEFT_ASSERT(condition)                                        \
  (__builtin_expect(!!(condition), 1)                                 \
       ? static_cast<void>(0)                                         \
       : ::weft::assertion_failed(#condition, __FILE__, __LINE__))

#if !defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WEFT_DCHECK(condition) WEFT_ASSERT(condition)
#else
#define WEFT_DCHECK(condition) static_cast<void>(0)
#endif
