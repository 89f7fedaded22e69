// Expressions, and the cursor over the tokens that statements share with them.
#pragma once

#include <string_view>
#include <vector>

#include "formats/jinja/ast.h"

namespace weft::formats::jinja {

class ExprParser {
 public:
  explicit ExprParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  // Deep enough for every real template by far, shallow enough for any thread's stack.
  static constexpr int kMaxDepth = 100;

  // Counts nesting while it lives.
  class Nested {
   public:
    explicit Nested(ExprParser& parser);
    ~Nested() { --depth_; }

   private:
    int& depth_;
  };

  const Token& peek(size_t ahead = 0) const;
  const Token& next();
  bool at_operator(std::string_view text, size_t ahead = 0) const;
  bool at_name(std::string_view text, size_t ahead = 0) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  std::string expect_any_name();
  void expect_kind(TokenKind kind, const char* what);
  size_t position() const { return pos_; }
  // True if the name occurs among the tokens from `begin` to here.
  bool names_since(size_t begin, std::string_view name) const;
  [[noreturn]] void fail(std::string message) const;
  [[noreturn]] void fail_at(Position at, std::string message) const;

  ExprPtr parse_expression();
  ExprPtr parse_or();
  // An expression, or a tuple of them without parentheses.
  ExprPtr parse_tuple(bool with_conditional = true);
  ExprPtr parse_filters(ExprPtr value, bool start_inline);

  ExprPtr make(ExprKind kind, Position at, std::vector<ExprPtr> args = {}, std::string name = "");

 private:
  ExprPtr checked(ExprPtr expr) const;
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filter = true);
  ExprPtr parse_primary();
  ExprPtr parse_postfix(ExprPtr value);
  ExprPtr parse_filter_chain(ExprPtr value);
  ExprPtr parse_subscript(ExprPtr value);
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_test(ExprPtr value);
  ExprPtr parse_list();
  ExprPtr parse_dict();
  CallArgs parse_call_args();
  bool at_tuple_end() const;
  bool at_constant_name() const;

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int depth_ = 0;
};

template <typename... Args>
std::vector<ExprPtr> exprs(Args... args) {
  std::vector<ExprPtr> out;
  (out.push_back(std::move(args)), ...);
  return out;
}

}  // namespace weft::formats::jinja
