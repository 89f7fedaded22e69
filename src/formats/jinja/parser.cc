#include "formats/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "formats/jinja/expr_parser.h"

namespace weft::formats::jinja {
namespace {

using Words = std::vector<std::string_view>;

class Parser : private ExprParser {
 public:
  using ExprParser::ExprParser;

  Body parse_template() { return parse_body({}); }

 private:
  // Statements up to a block whose name is one of `ends`; that name is the next token then.
  Body parse_body(const Words& ends) {
    const Nested nested(*this);
    Body out;
    for (;;) {
      const Token& token = peek();
      switch (token.kind) {
        case TokenKind::kData:
          out.push_back(statement(StmtKind::kText));
          out.back().text = next().text;
          break;
        case TokenKind::kVariableBegin:
          out.push_back(statement(StmtKind::kOutput));
          next();
          out.back().expr = parse_tuple();
          expect_kind(TokenKind::kVariableEnd, "'}}'");
          break;
        case TokenKind::kBlockBegin:
          next();
          if (std::any_of(ends.begin(), ends.end(), [&](auto word) { return at_name(word); })) {
            return out;
          }
          out.push_back(parse_statement());
          expect_kind(TokenKind::kBlockEnd, "'%}'");
          break;
        default:
          if (ends.empty()) return out;
          fail(fmt::format("unexpected end of template, expected '{}'", ends.back()));
      }
    }
  }

  // The same, with the rest of the tag before and the end word behind.
  Body parse_block(std::string_view end) {
    expect_kind(TokenKind::kBlockEnd, "'%}'");
    Body body = parse_body({end});
    next();
    return body;
  }

  Stmt statement(StmtKind kind) const {
    Stmt out;
    out.kind = kind;
    out.at = peek().at;
    return out;
  }

  Stmt parse_statement() {
    if (peek().kind != TokenKind::kName) fail("tag name expected");
    Stmt out = statement(StmtKind::kScope);
    const std::string word = next().text;
    if (word == "if") {
      parse_if(out);
    } else if (word == "for") {
      parse_for(out);
    } else if (word == "set") {
      parse_set(out);
    } else if (word == "macro") {
      parse_macro(out);
    } else if (word == "call") {
      parse_call_block(out);
    } else if (word == "filter") {
      out.kind = StmtKind::kFilter;
      out.filter = parse_filters(nullptr, true);
      out.body = parse_block("endfilter");
    } else if (word == "with") {
      parse_with(out);
    } else if (word == "print") {
      out.kind = StmtKind::kOutput;
      out.expr = parse_tuple();
    } else if (word == "generation") {
      out.body = parse_block("endgeneration");
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) fail_at(out.at, fmt::format("'{}' outside of a loop", word));
      out.kind = word == "break" ? StmtKind::kBreak : StmtKind::kContinue;
    } else {
      refuse_tag(out.at, word);
    }
    return out;
  }

  [[noreturn]] void refuse_tag(Position at, const std::string& word) const {
    static constexpr std::string_view kTemplateFiles[] = {"block",  "extends", "include",
                                                          "import", "from",    "autoescape"};
    if (std::find(std::begin(kTemplateFiles), std::end(kTemplateFiles), word) !=
        std::end(kTemplateFiles)) {
      throw SyntaxError{at, fmt::format("the tag '{}' is not supported", word), true};
    }
    fail_at(at, fmt::format("Encountered unknown tag '{}'", word));
  }

  void parse_if(Stmt& out) {
    out.kind = StmtKind::kIf;
    for (;;) {
      Branch branch;
      branch.condition = parse_tuple(false);
      expect_kind(TokenKind::kBlockEnd, "'%}'");
      branch.body = parse_body({"elif", "else", "endif"});
      out.branches.push_back(std::move(branch));
      if (skip_name("elif")) continue;
      if (skip_name("else")) {
        Branch last;
        last.body = parse_block("endif");
        out.branches.push_back(std::move(last));
      } else {
        next();
      }
      return;
    }
  }

  void parse_for(Stmt& out) {
    out.kind = StmtKind::kFor;
    out.target = parse_target(false);
    expect_name("in");
    out.expr = parse_tuple(false);
    if (skip_name("if")) out.filter = parse_expression();
    out.recursive = skip_name("recursive");
    expect_kind(TokenKind::kBlockEnd, "'%}'");
    ++loops_;
    out.body = parse_body({"else", "endfor"});
    --loops_;
    if (skip_name("else")) {
      out.otherwise = parse_block("endfor");
    } else {
      next();
    }
  }

  void parse_set(Stmt& out) {
    out.target = parse_target(true);
    if (skip_operator("=")) {
      out.kind = StmtKind::kSet;
      out.expr = parse_tuple();
      return;
    }
    out.kind = StmtKind::kSetBlock;
    if (at_operator("|")) out.filter = parse_filters(nullptr, false);
    out.body = parse_block("endset");
  }

  void parse_macro(Stmt& out) {
    out.kind = StmtKind::kMacro;
    out.text = parse_variable_name();
    parse_parameters(out);
    parse_function(out, "endmacro");
  }

  void parse_call_block(Stmt& out) {
    out.kind = StmtKind::kCall;
    if (at_operator("(")) parse_parameters(out);
    out.expr = parse_expression();
    if (out.expr->kind != ExprKind::kCall) fail_at(out.at, "expected call");
    parse_function(out, "endcall");
  }

  // A loop around a function is not a loop of its body.
  void parse_function(Stmt& out, std::string_view end) {
    const int outer = std::exchange(loops_, 0);
    const size_t begin = position();
    out.body = parse_block(end);
    out.reads_varargs = names_since(begin, "varargs");
    out.reads_kwargs = names_since(begin, "kwargs");
    loops_ = outer;
  }

  void parse_with(Stmt& out) {
    out.kind = StmtKind::kWith;
    while (peek().kind != TokenKind::kBlockEnd) {
      if (!out.assignments.empty()) expect_operator(",");
      Target target = parse_one_target(false);
      expect_operator("=");
      out.assignments.emplace_back(std::move(target), parse_expression());
    }
    out.body = parse_block("endwith");
  }

  void parse_parameters(Stmt& out) {
    expect_operator("(");
    while (!at_operator(")")) {
      if (!out.parameters.empty()) expect_operator(",");
      Parameter parameter;
      parameter.name = parse_variable_name();
      if (skip_operator("=")) {
        parameter.fallback = parse_expression();
      } else if (!out.parameters.empty() && out.parameters.back().fallback) {
        fail("non-default argument follows default argument");
      }
      out.parameters.push_back(std::move(parameter));
    }
    expect_operator(")");
  }

  std::string parse_variable_name() {
    static constexpr std::string_view kConstants[] = {"true", "false", "none",
                                                      "True", "False", "None"};
    const std::string name = peek().text;
    if (std::find(std::begin(kConstants), std::end(kConstants), name) != std::end(kConstants)) {
      fail(fmt::format("can't assign to '{}'", name));
    }
    return expect_any_name();
  }

  Target parse_target(bool with_attribute) {
    Target first = parse_one_target(with_attribute);
    if (!at_operator(",")) return first;
    Target out;
    out.at = first.at;
    out.is_tuple = true;
    out.parts.push_back(std::move(first));
    while (skip_operator(",")) {
      if (at_name("in") || at_operator("=") || at_operator(")")) break;
      out.parts.push_back(parse_one_target(with_attribute));
    }
    return out;
  }

  Target parse_one_target(bool with_attribute) {
    const Nested nested(*this);
    Target out;
    out.at = peek().at;
    if (skip_operator("(")) {
      out = parse_target(with_attribute);
      expect_operator(")");
      return out;
    }
    out.name = parse_variable_name();
    if (with_attribute && skip_operator(".")) out.attribute = expect_any_name();
    return out;
  }

  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) { return Parser(tokenize(source)).parse_template(); }

}  // namespace weft::formats::jinja
