// Template text to tokens, with jinja2's rules for white space around tags (trim_blocks and
// lstrip_blocks on, as transformers sets them).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::formats::jinja {

struct Position {
  int line = 1, column = 1;
};

enum class TokenKind {
  kData,           // text outside tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // of strings: the value; of operators: the operator
  int64_t integer = 0;
  double number = 0;
  Position at;
};

// A template that cannot be read; ChatTemplate turns it into an Error.
struct SyntaxError {
  Position at;
  std::string message;
  bool is_unsupported = false;  // jinja2 would read it
};

std::vector<Token> tokenize(std::string_view source);

}  // namespace weft::formats::jinja
