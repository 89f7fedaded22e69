// What one rendering may spend. Templates come with models that nobody vouches for, so every loop,
// every string and every recursion is charged before it happens.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"

namespace weft::formats::jinja {

// A failure inside the template; the interpreter adds name, line and column.
struct Failure {
  ErrorKind kind;
  std::string message;
};

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{ErrorKind::kInvalidInput, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename... Args>
[[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{ErrorKind::kUnsupported, fmt::format(format, std::forward<Args>(args)...)};
}

class Budget {
 public:
  // A 128k-token conversation through the busiest template we know takes a hundredth of these.
  static constexpr size_t kSteps = 20'000'000;
  static constexpr size_t kBytes = size_t{256} << 20;

  void step(size_t count = 1) {
    if (count > steps_left_) refuse("the template ran for more than {} steps", kSteps);
    steps_left_ -= count;
  }
  void bytes(size_t count) {
    if (count > bytes_left_) refuse("the template made more than {} bytes of values", kBytes);
    bytes_left_ -= count;
  }

 private:
  size_t steps_left_ = kSteps;
  size_t bytes_left_ = kBytes;
};

// A string under construction, charged as it grows.
class Text {
 public:
  explicit Text(Budget& budget) : budget_(budget) {}
  Text& operator+=(std::string_view more) {
    budget_.bytes(more.size());
    text_ += more;
    return *this;
  }
  Text& operator+=(char more) { return *this += std::string_view(&more, 1); }
  void append(size_t count, char fill) {
    budget_.bytes(count);
    text_.append(count, fill);
  }
  Budget& budget() { return budget_; }
  const std::string& str() const { return text_; }
  std::string take() { return std::move(text_); }

 private:
  Budget& budget_;
  std::string text_;
};

}  // namespace weft::formats::jinja
