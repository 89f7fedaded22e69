// The objects that templates meet: namespaces, macros, `loop` and built-in functions.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/jinja/ast.h"
#include "formats/jinja/interpreter.h"
#include "formats/jinja/value.h"

namespace weft::formats::jinja {

// A built-in: a filter, a test, a method of `self`, or a global function (then `self` is None).
using Builtin = Value (*)(Interpreter& interpreter, const Value& self, const Arguments& arguments);

class Function final : public Object {
 public:
  Function(Builtin builtin, Value self) : builtin_(builtin), self_(std::move(self)) {}
  std::string type_name() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, const Arguments& arguments) override {
    return builtin_(interpreter, self_, arguments);
  }

 private:
  Builtin builtin_;
  Value self_;
};

class Namespace final : public Object {
 public:
  std::string type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(const std::string& name) override;
  void set(const std::string& name, Value value, Budget& budget);
  void clear() { attributes_ = Dict(); }

 private:
  Dict attributes_;
};

// A macro, or the body of a call block, with the scope that it was defined in.
class Macro final : public Object {
 public:
  Macro(std::string name, const Stmt& stmt, std::shared_ptr<Scope> scope)
      : name_(std::move(name)), stmt_(stmt), scope_(std::move(scope)) {}
  std::string type_name() const override { return "Macro"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(const std::string& name) override;
  Value call(Interpreter& interpreter, const Arguments& arguments) override;

 private:
  std::string name_;
  const Stmt& stmt_;
  std::shared_ptr<Scope> scope_;
};

class Loop final : public Object, public std::enable_shared_from_this<Loop> {
 public:
  Loop(const Stmt& stmt, List items, std::shared_ptr<Scope> scope, int depth)
      : stmt_(stmt), items_(std::move(items)), scope_(std::move(scope)), depth_(depth) {}
  std::string type_name() const override { return "LoopContext"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(const std::string& name) override;
  Value call(Interpreter& interpreter, const Arguments& arguments) override;  // recursive loops

  const List& items() const { return items_; }
  void start_round(size_t index) { index_ = index; }
  void finish() { last_seen_.reset(); }
  bool changed(const Arguments& arguments, Budget& budget);
  Value cycle(const Arguments& arguments) const;

 private:
  const Stmt& stmt_;
  List items_;
  std::shared_ptr<Scope> scope_;
  int depth_;
  size_t index_ = 0;
  std::optional<Value> last_seen_;
};

}  // namespace weft::formats::jinja
