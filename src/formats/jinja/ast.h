// A parsed template. Expression and statement trees are no deeper than the parser's bound, so that
// walking and freeing them needs little stack.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/jinja/lexer.h"
#include "formats/jinja/value.h"

namespace weft::formats::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kConstant,     // value
  kName,         // name
  kList,         // args
  kTuple,        // args
  kDict,         // args: key, value, key, value, ...
  kAttribute,    // args[0] . name
  kItem,         // args[0] [ args[1] ]
  kSlice,        // args[0] [ args[1] : args[2] : args[3] ], absent ones are null
  kCall,         // args[0] ( call )
  kFilter,       // args[0] | name ( call ); args[0] is null at the head of a filter block
  kTest,         // args[0] is name ( call )
  kUnary,        // name: "-", "+", "not"
  kBinary,       // args[0] name args[1], arithmetic
  kConcat,       // args joined by ~
  kCompare,      // args[0] operators[0] args[1] operators[1] args[2] ...
  kAnd,          // args[0], args[1]
  kOr,           // args[0], args[1]
  kConditional,  // args[0] if args[1] else args[2] (may be null)
};

struct CallArgs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr rest;        // *rest
  ExprPtr named_rest;  // **named_rest
};

struct Expr {
  ExprKind kind;
  Position at;
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::string> operators;
  CallArgs call;
  int depth = 1;
};

// What a for loop or a set assigns to: a name, a namespace's attribute, or a tuple of targets.
struct Target {
  Position at;
  std::string name;
  std::string attribute;  // of the namespace `name`; empty otherwise
  std::vector<Target> parts;
  bool is_tuple = false;
};

struct Stmt;
using Body = std::vector<Stmt>;

enum class StmtKind {
  kText,      // text
  kOutput,    // expr
  kIf,        // branches; the last one's condition may be null (else)
  kFor,       // target, expr, filter, body, otherwise
  kSet,       // target = expr
  kSetBlock,  // target, filter (may be null), body
  kMacro,     // text = name, parameters, body
  kCall,      // expr (a call), parameters of the caller, body
  kFilter,    // filter, body
  kWith,      // assignments, body
  kScope,     // body: generation blocks
  kBreak,
  kContinue,
};

struct Branch {
  ExprPtr condition;
  Body body;
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // may be null
};

struct Stmt {
  StmtKind kind;
  Position at;
  std::string text;
  ExprPtr expr;
  ExprPtr filter;
  Target target;
  std::vector<Parameter> parameters;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  std::vector<Branch> branches;
  Body body, otherwise;
  bool recursive = false;      // of loops
  bool reads_varargs = false;  // of macros: whether the body names varargs and kwargs
  bool reads_kwargs = false;
};

}  // namespace weft::formats::jinja
