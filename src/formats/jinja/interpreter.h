// Walks the tree. One interpreter renders once; the tree is only read.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/jinja/ast.h"
#include "formats/jinja/value.h"

namespace weft::formats::jinja {

// The variables of a block that has its own: the template, a loop's round, a macro's call.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;

  void set(const std::string& name, Value value);
  const Value* find(const std::string& name) const;  // here or in a parent
};

class Interpreter {
 public:
  explicit Interpreter(Budget& budget) : budget_(budget) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Throws Failure; position() is then where it happened.
  std::string render(const Body& body, const Dict& context);
  Position position() const { return at_; }
  Budget& budget() { return budget_; }
  const Value* variable(const std::string& name) const { return root_->find(name); }

  // ---- for filters, tests, functions and macros
  Value call(const Value& callee, const Arguments& arguments);
  Value filter(const std::string& name, const Value& value, const Arguments& arguments);
  bool test(const std::string& name, const Value& value, const Arguments& arguments);
  Value attribute(const Value& value, const std::string& name);  // value.name
  Value item(const Value& value, const Value& key);              // value[key]
  // Runs `body` in `scope` and returns what it printed.
  std::string capture(const Body& body, const std::shared_ptr<Scope>& scope);
  Value eval_in(const Expr& expr, const std::shared_ptr<Scope>& scope);
  // What the rounds of a loop print; `scope` surrounds the loop.
  std::string capture_loop(const Stmt& loop, const Value& iterable,
                           const std::shared_ptr<Scope>& scope, int depth);
  // An object that may come to hold itself: it is emptied when the interpreter ends.
  void emptied_at_end(std::shared_ptr<Object> object) { objects_.push_back(std::move(object)); }

 private:
  enum class Flow { kNext, kBreak, kContinue };
  class Depth;
  class InScope;
  class CaptureTo;

  Flow run(const Body& body);
  Flow run(const Stmt& stmt);
  Flow run_if(const Stmt& stmt);
  void run_loop(const Stmt& loop, const Value& iterable, const std::shared_ptr<Scope>& scope,
                int depth);
  void run_set_block(const Stmt& stmt);
  void run_call_block(const Stmt& stmt);
  Flow run_with(const Stmt& stmt);
  void define_macro(const Stmt& stmt);
  void assign(const Target& target, const Value& value);
  std::shared_ptr<Object> make_macro(const std::string& name, const Stmt& stmt);
  std::shared_ptr<Scope> inner_scope() const;

  Value eval(const Expr& expr);
  Value evaluate(const Expr& expr);
  Value eval_name(const Expr& expr);
  Value eval_dict(const Expr& expr);
  Value eval_slice(const Expr& expr);
  Value eval_compare(const Expr& expr);
  Value eval_unary(const Expr& expr);
  Value eval_concat(const Expr& expr);
  Value eval_conditional(const Expr& expr);
  // `block` is the text of a filter block, whose chain of filters has no value of its own.
  Value eval_filter(const Expr& expr, const Value* block);
  List eval_all(const std::vector<ExprPtr>& exprs);
  Arguments eval_arguments(const CallArgs& args);

  Budget& budget_;
  Position at_;
  int depth_ = 0;
  Text* out_ = nullptr;
  std::shared_ptr<Scope> root_, scope_;
  std::vector<std::shared_ptr<Scope>> captured_;  // by macros, which they may hold in turn
  std::vector<std::shared_ptr<Object>> objects_;
};

}  // namespace weft::formats::jinja
