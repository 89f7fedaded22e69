#include "formats/jinja/expr_parser.h"

#include <fmt/format.h>

#include <algorithm>

namespace weft::formats::jinja {
namespace {

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kName:
    case TokenKind::kOperator:
      return fmt::format("'{}'", token.text);
    case TokenKind::kString:
      return "a string";
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return "a number";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return "template text";
  }
}

}  // namespace

ExprParser::Nested::Nested(ExprParser& parser) : depth_(parser.depth_) {
  if (depth_ >= kMaxDepth) {
    throw SyntaxError{parser.peek().at, fmt::format("nesting deeper than {}", kMaxDepth), true};
  }
  ++depth_;
}

const Token& ExprParser::peek(size_t ahead) const {
  return tokens_[std::min(pos_ + ahead, tokens_.size() - 1)];
}

const Token& ExprParser::next() {
  const Token& token = peek();
  if (pos_ + 1 < tokens_.size()) ++pos_;
  return token;
}

bool ExprParser::at_operator(std::string_view text, size_t ahead) const {
  return peek(ahead).kind == TokenKind::kOperator && peek(ahead).text == text;
}

bool ExprParser::at_name(std::string_view text, size_t ahead) const {
  return peek(ahead).kind == TokenKind::kName && peek(ahead).text == text;
}

bool ExprParser::skip_operator(std::string_view text) {
  if (!at_operator(text)) return false;
  next();
  return true;
}

bool ExprParser::skip_name(std::string_view text) {
  if (!at_name(text)) return false;
  next();
  return true;
}

void ExprParser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail(fmt::format("expected '{}', got {}", text, describe(peek())));
}

void ExprParser::expect_name(std::string_view text) {
  if (!skip_name(text)) fail(fmt::format("expected '{}', got {}", text, describe(peek())));
}

std::string ExprParser::expect_any_name() {
  if (peek().kind != TokenKind::kName)
    fail(fmt::format("expected a name, got {}", describe(peek())));
  return next().text;
}

void ExprParser::expect_kind(TokenKind kind, const char* what) {
  if (peek().kind != kind) fail(fmt::format("expected {}, got {}", what, describe(peek())));
  next();
}

bool ExprParser::names_since(size_t begin, std::string_view name) const {
  return std::any_of(tokens_.begin() + begin, tokens_.begin() + pos_, [&](const Token& token) {
    return token.kind == TokenKind::kName && token.text == name;
  });
}

void ExprParser::fail(std::string message) const { fail_at(peek().at, std::move(message)); }

void ExprParser::fail_at(Position at, std::string message) const {
  throw SyntaxError{at, std::move(message)};
}

ExprPtr ExprParser::checked(ExprPtr expr) const {
  int depth = 0;
  const auto see = [&](const ExprPtr& child) {
    if (child) depth = std::max(depth, child->depth);
  };
  for (const ExprPtr& child : expr->args) see(child);
  for (const ExprPtr& child : expr->call.positional) see(child);
  for (const auto& [name, child] : expr->call.named) see(child);
  see(expr->call.rest);
  see(expr->call.named_rest);
  // Chains such as a + b + c + ... grow the tree without nesting in the text.
  constexpr int kMaxTreeDepth = 4 * kMaxDepth;
  if (depth >= kMaxTreeDepth) {
    throw SyntaxError{expr->at, fmt::format("expression of more than {} parts", kMaxTreeDepth),
                      true};
  }
  expr->depth = depth + 1;
  return expr;
}

ExprPtr ExprParser::make(ExprKind kind, Position at, std::vector<ExprPtr> args, std::string name) {
  auto out = std::make_unique<Expr>();
  out->kind = kind;
  out->at = at;
  out->args = std::move(args);
  out->name = std::move(name);
  return checked(std::move(out));
}

ExprPtr ExprParser::parse_expression() {
  const Nested nested(*this);
  const Position at = peek().at;
  ExprPtr value = parse_or();
  while (skip_name("if")) {
    ExprPtr condition = parse_or();
    ExprPtr otherwise = skip_name("else") ? parse_expression() : nullptr;
    value = make(ExprKind::kConditional, at,
                 exprs(std::move(value), std::move(condition), std::move(otherwise)));
  }
  return value;
}

ExprPtr ExprParser::parse_or() {
  ExprPtr left = parse_and();
  for (Position at = peek().at; skip_name("or"); at = peek().at) {
    ExprPtr right = parse_and();
    left = make(ExprKind::kOr, at, exprs(std::move(left), std::move(right)));
  }
  return left;
}

ExprPtr ExprParser::parse_and() {
  ExprPtr left = parse_not();
  for (Position at = peek().at; skip_name("and"); at = peek().at) {
    ExprPtr right = parse_not();
    left = make(ExprKind::kAnd, at, exprs(std::move(left), std::move(right)));
  }
  return left;
}

ExprPtr ExprParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const Nested nested(*this);
  const Position at = next().at;
  return make(ExprKind::kUnary, at, exprs(parse_not()), "not");
}

ExprPtr ExprParser::parse_compare() {
  static constexpr std::string_view kOperators[] = {"==", "!=", "<", ">", "<=", ">="};
  const Position at = peek().at;
  std::vector<ExprPtr> args = exprs(parse_sum());
  std::vector<std::string> operators;
  for (;;) {
    const Token& token = peek();
    if (token.kind == TokenKind::kOperator &&
        std::find(std::begin(kOperators), std::end(kOperators), token.text) !=
            std::end(kOperators)) {
      operators.push_back(next().text);
    } else if (skip_name("in")) {
      operators.push_back("in");
    } else if (at_name("not") && at_name("in", 1)) {
      next();
      next();
      operators.push_back("not in");
    } else {
      break;
    }
    args.push_back(parse_sum());
  }
  if (operators.empty()) return std::move(args[0]);
  ExprPtr out = make(ExprKind::kCompare, at, std::move(args));
  out->operators = std::move(operators);
  return out;
}

ExprPtr ExprParser::parse_sum() {
  ExprPtr left = parse_concat();
  while (at_operator("+") || at_operator("-")) {
    const Token& token = next();
    ExprPtr right = parse_concat();
    left = make(ExprKind::kBinary, token.at, exprs(std::move(left), std::move(right)), token.text);
  }
  return left;
}

ExprPtr ExprParser::parse_concat() {
  const Position at = peek().at;
  std::vector<ExprPtr> args = exprs(parse_product());
  while (skip_operator("~")) args.push_back(parse_product());
  if (args.size() == 1) return std::move(args[0]);
  return make(ExprKind::kConcat, at, std::move(args));
}

ExprPtr ExprParser::parse_product() {
  ExprPtr left = parse_power();
  while (at_operator("*") || at_operator("/") || at_operator("//") || at_operator("%")) {
    const Token& token = next();
    ExprPtr right = parse_power();
    left = make(ExprKind::kBinary, token.at, exprs(std::move(left), std::move(right)), token.text);
  }
  return left;
}

ExprPtr ExprParser::parse_power() {
  ExprPtr left = parse_unary();
  while (at_operator("**")) {
    const Position at = next().at;
    ExprPtr right = parse_unary();
    left = make(ExprKind::kBinary, at, exprs(std::move(left), std::move(right)), "**");
  }
  return left;
}

ExprPtr ExprParser::parse_unary(bool with_filter) {
  ExprPtr value;
  if (at_operator("-") || at_operator("+")) {
    const Nested nested(*this);
    const Token& token = next();
    value = make(ExprKind::kUnary, token.at, exprs(parse_unary(false)), token.text);
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filter_chain(std::move(value)) : std::move(value);
}

bool ExprParser::at_constant_name() const {
  static constexpr std::string_view kConstants[] = {"true", "false", "none",
                                                    "True", "False", "None"};
  return std::find(std::begin(kConstants), std::end(kConstants), peek().text) !=
         std::end(kConstants);
}

ExprPtr ExprParser::parse_primary() {
  const Token& token = peek();
  if (at_operator("[")) return parse_list();
  if (at_operator("{")) return parse_dict();
  if (skip_operator("(")) {
    ExprPtr inner = parse_tuple();
    expect_operator(")");
    return inner;
  }
  ExprPtr out = make(ExprKind::kConstant, token.at);
  switch (token.kind) {
    case TokenKind::kName:
      if (at_constant_name()) {
        const char first = static_cast<char>(token.text[0] | 0x20);
        if (first != 'n') out->value = Value(first == 't');
      } else {
        out->kind = ExprKind::kName;
        out->name = token.text;
      }
      break;
    case TokenKind::kString: {
      std::string text = next().text;
      while (peek().kind == TokenKind::kString) text += next().text;  // "a" "b" is one string
      out->value = Value(std::move(text));
      return out;
    }
    case TokenKind::kInteger:
      out->value = Value(token.integer);
      break;
    case TokenKind::kFloat:
      out->value = Value(token.number);
      break;
    default:
      fail(fmt::format("unexpected {}", describe(token)));
  }
  next();
  return out;
}

bool ExprParser::at_tuple_end() const {
  return peek().kind == TokenKind::kVariableEnd || peek().kind == TokenKind::kBlockEnd ||
         at_operator(")") || at_name("recursive");
}

ExprPtr ExprParser::parse_tuple(bool with_conditional) {
  const Nested nested(*this);
  const Position at = peek().at;
  std::vector<ExprPtr> args;
  bool is_tuple = false;
  while (!at_tuple_end()) {
    args.push_back(with_conditional ? parse_expression() : parse_or());
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (args.size() == 1 && !is_tuple) return std::move(args[0]);
  if (args.empty() && !at_operator(")"))
    fail(fmt::format("expected an expression, got {}", describe(peek())));
  return make(ExprKind::kTuple, at, std::move(args));
}

ExprPtr ExprParser::parse_list() {
  const Position at = next().at;
  std::vector<ExprPtr> args;
  while (!at_operator("]")) {
    if (!args.empty()) {
      expect_operator(",");
      if (at_operator("]")) break;
    }
    args.push_back(parse_expression());
  }
  expect_operator("]");
  return make(ExprKind::kList, at, std::move(args));
}

ExprPtr ExprParser::parse_dict() {
  const Position at = next().at;
  std::vector<ExprPtr> args;
  while (!at_operator("}")) {
    if (!args.empty()) {
      expect_operator(",");
      if (at_operator("}")) break;
    }
    args.push_back(parse_expression());
    expect_operator(":");
    args.push_back(parse_expression());
  }
  expect_operator("}");
  return make(ExprKind::kDict, at, std::move(args));
}

ExprPtr ExprParser::parse_postfix(ExprPtr value) {
  for (;;) {
    if (at_operator(".") || at_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (at_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExprParser::parse_filter_chain(ExprPtr value) {
  for (;;) {
    if (at_operator("|")) {
      value = parse_filters(std::move(value), false);
    } else if (at_name("is")) {
      value = parse_test(std::move(value));
    } else if (at_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExprParser::parse_subscript(ExprPtr value) {
  const Position at = peek().at;
  if (skip_operator(".")) {
    if (peek().kind == TokenKind::kName) {
      return make(ExprKind::kAttribute, at, exprs(std::move(value)), next().text);
    }
    if (peek().kind != TokenKind::kInteger) fail("expected name or number");
    ExprPtr index = parse_primary();
    return make(ExprKind::kItem, at, exprs(std::move(value), std::move(index)));
  }
  expect_operator("[");
  ExprPtr begin = at_operator(":") ? nullptr : parse_expression();
  if (!at_operator(":")) {
    if (at_operator(",")) throw SyntaxError{at, "subscripts of several values", true};
    expect_operator("]");
    return make(ExprKind::kItem, at, exprs(std::move(value), std::move(begin)));
  }
  next();
  const auto ends = [&] { return at_operator(":") || at_operator("]"); };
  ExprPtr end = ends() ? nullptr : parse_expression();
  ExprPtr step;
  if (skip_operator(":") && !ends()) step = parse_expression();
  expect_operator("]");
  return make(ExprKind::kSlice, at,
              exprs(std::move(value), std::move(begin), std::move(end), std::move(step)));
}

CallArgs ExprParser::parse_call_args() {
  const Position at = peek().at;
  CallArgs out;
  expect_operator("(");
  bool first = true;
  while (!at_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (at_operator(")")) break;
    }
    first = false;
    const bool names_its_value = peek().kind == TokenKind::kName && at_operator("=", 1);
    if (at_operator("*") && !out.rest && !out.named_rest) {
      next();
      out.rest = parse_expression();
    } else if (at_operator("**") && !out.named_rest) {
      next();
      out.named_rest = parse_expression();
    } else if (names_its_value && !out.named_rest) {
      std::string name = next().text;
      next();
      out.named.emplace_back(std::move(name), parse_expression());
    } else if (!names_its_value && out.named.empty() && !out.rest && !out.named_rest) {
      out.positional.push_back(parse_expression());
    } else {
      fail_at(at, "invalid syntax for function call expression");
    }
  }
  expect_operator(")");
  return out;
}

ExprPtr ExprParser::parse_call(ExprPtr callee) {
  ExprPtr out = make(ExprKind::kCall, peek().at, exprs(std::move(callee)));
  out->call = parse_call_args();
  return checked(std::move(out));
}

ExprPtr ExprParser::parse_filters(ExprPtr value, bool start_inline) {
  while (start_inline || at_operator("|")) {
    if (!start_inline) next();
    start_inline = false;
    const Position at = peek().at;
    std::string name = expect_any_name();
    while (skip_operator(".")) name.append(1, '.').append(expect_any_name());
    value = make(ExprKind::kFilter, at, exprs(std::move(value)), std::move(name));
    if (at_operator("(")) value->call = parse_call_args();
    value = checked(std::move(value));
  }
  return value;
}

ExprPtr ExprParser::parse_test(ExprPtr value) {
  next();
  const bool negated = skip_name("not");
  const Position at = peek().at;
  ExprPtr out = make(ExprKind::kTest, at, exprs(std::move(value)), expect_any_name());
  const Token& token = peek();
  if (at_operator("(")) {
    out->call = parse_call_args();
  } else if (at_name("is")) {
    fail("You cannot chain multiple tests with is");
  } else if ((token.kind == TokenKind::kName && !at_name("else") && !at_name("or") &&
              !at_name("and")) ||
             token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
             token.kind == TokenKind::kFloat || at_operator("[") || at_operator("{")) {
    const Nested nested(*this);
    out->call.positional.push_back(parse_postfix(parse_primary()));
  }
  out = checked(std::move(out));
  return negated ? make(ExprKind::kUnary, at, exprs(std::move(out)), "not") : std::move(out);
}

}  // namespace weft::formats::jinja
