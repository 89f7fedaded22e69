#include "formats/jinja/interpreter.h"

#include <algorithm>

#include "formats/jinja/builtins.h"
#include "formats/jinja/objects.h"
#include "formats/jinja/operators.h"
#include "formats/jinja/strings.h"

namespace weft::formats::jinja {

namespace {

bool ordered(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  if (a.is_number() && b.is_number() &&
      (a.is_float() || b.is_float())) {  // NaN orders with nothing
    const double x = a.number(), y = b.number();
    return op == "<" ? x < y : op == ">" ? x > y : op == "<=" ? x <= y : x >= y;
  }
  const int order = compare(a, b, budget);
  return op == "<" ? order < 0 : op == ">" ? order > 0 : op == "<=" ? order <= 0 : order >= 0;
}

}  // namespace

void Scope::set(const std::string& name, Value value) {
  for (auto& [known, slot] : variables) {
    if (known == name) {
      slot = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

// Trees are bounded, but macros call macros: this bounds the stack of them all together.
class Interpreter::Depth {
 public:
  explicit Depth(Interpreter& interpreter) : depth_(interpreter.depth_) {
    constexpr int kMaxDepth = 1000;
    if (depth_ >= kMaxDepth) refuse("maximum recursion depth exceeded");
    ++depth_;
  }
  ~Depth() { --depth_; }

 private:
  int& depth_;
};

class Interpreter::InScope {
 public:
  InScope(Interpreter& interpreter, std::shared_ptr<Scope> scope)
      : current_(interpreter.scope_), outer_(std::exchange(current_, std::move(scope))) {}
  ~InScope() { current_ = std::move(outer_); }

 private:
  std::shared_ptr<Scope>& current_;
  std::shared_ptr<Scope> outer_;
};

class Interpreter::CaptureTo {
 public:
  CaptureTo(Interpreter& interpreter, Text& text)
      : current_(interpreter.out_), outer_(std::exchange(current_, &text)) {}
  ~CaptureTo() { current_ = outer_; }

 private:
  Text*& current_;
  Text* outer_;
};

Interpreter::~Interpreter() {
  for (const auto& scope : captured_) scope->variables.clear();
  for (const auto& object : objects_) {
    if (auto* names = dynamic_cast<Namespace*>(object.get())) names->clear();
  }
}

std::string Interpreter::render(const Body& body, const Dict& context) {
  root_ = scope_ = std::make_shared<Scope>();
  for (const auto& [name, value] : context.entries()) root_->set(name.string(), value);
  return capture(body, root_);
}

std::string Interpreter::capture(const Body& body, const std::shared_ptr<Scope>& scope) {
  Text text(budget_);
  const InScope in_scope(*this, scope);
  const CaptureTo capture_to(*this, text);
  run(body);
  return text.take();
}

std::shared_ptr<Scope> Interpreter::inner_scope() const {
  auto out = std::make_shared<Scope>();
  out->parent = scope_;
  return out;
}

Interpreter::Flow Interpreter::run(const Body& body) {
  for (const Stmt& stmt : body) {
    const Flow flow = run(stmt);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Stmt& stmt) {
  const Depth depth(*this);
  at_ = stmt.at;
  budget_.step();
  switch (stmt.kind) {
    case StmtKind::kText:
      *out_ += stmt.text;
      break;
    case StmtKind::kOutput: {
      const Value value = eval(*stmt.expr);
      at_ = stmt.at;
      append_str(*out_, value);
      break;
    }
    case StmtKind::kIf:
      return run_if(stmt);
    case StmtKind::kFor:
      run_loop(stmt, eval(*stmt.expr), scope_, 0);
      break;
    case StmtKind::kSet:
      assign(stmt.target, eval(*stmt.expr));
      break;
    case StmtKind::kSetBlock:
      run_set_block(stmt);
      break;
    case StmtKind::kMacro:
      scope_->set(stmt.text, Value(make_macro(stmt.text, stmt)));
      break;
    case StmtKind::kCall:
      run_call_block(stmt);
      break;
    case StmtKind::kFilter: {
      const Value text(capture(stmt.body, inner_scope()));
      append_str(*out_, eval_filter(*stmt.filter, &text));
      break;
    }
    case StmtKind::kWith:
      return run_with(stmt);
    case StmtKind::kScope: {
      const InScope in_scope(*this, inner_scope());
      return run(stmt.body);
    }
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches) {
    if (!branch.condition || eval(*branch.condition).truthy()) return run(branch.body);
  }
  return Flow::kNext;
}

void Interpreter::run_loop(const Stmt& loop, const Value& iterable,
                           const std::shared_ptr<Scope>& scope, int depth) {
  const InScope outer(*this, scope);
  at_ = loop.at;
  List items = iterate(iterable, budget_);
  if (loop.filter) {
    List kept;
    for (Value& item : items) {
      const InScope round(*this, inner_scope());
      assign(loop.target, item);
      if (eval(*loop.filter).truthy()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty()) {
    const InScope in_scope(*this, inner_scope());
    run(loop.otherwise);
    return;
  }
  const auto state = std::make_shared<Loop>(loop, std::move(items), scope, depth);
  for (size_t i = 0; i < state->items().size(); ++i) {
    const InScope round(*this, inner_scope());
    state->start_round(i);
    scope_->set("loop", Value(state));
    assign(loop.target, state->items()[i]);
    if (run(loop.body) == Flow::kBreak) break;
  }
  state->finish();
}

std::string Interpreter::capture_loop(const Stmt& loop, const Value& iterable,
                                      const std::shared_ptr<Scope>& scope, int depth) {
  Text text(budget_);
  const CaptureTo capture_to(*this, text);
  run_loop(loop, iterable, scope, depth);
  return text.take();
}

void Interpreter::run_set_block(const Stmt& stmt) {
  Value value(capture(stmt.body, inner_scope()));
  if (stmt.filter) value = eval_filter(*stmt.filter, &value);
  assign(stmt.target, value);
}

void Interpreter::run_call_block(const Stmt& stmt) {
  const Expr& call_expr = *stmt.expr;
  const Value callee = eval(*call_expr.args[0]);
  Arguments arguments = eval_arguments(call_expr.call);
  arguments.named.emplace_back("caller", Value(make_macro("caller", stmt)));
  at_ = stmt.at;
  append_str(*out_, call(callee, arguments));
}

Interpreter::Flow Interpreter::run_with(const Stmt& stmt) {
  // All values are of the outer scope, then all names are set.
  List values;
  for (const auto& [target, expr] : stmt.assignments) values.push_back(eval(*expr));
  const InScope in_scope(*this, inner_scope());
  for (size_t i = 0; i < values.size(); ++i) assign(stmt.assignments[i].first, values[i]);
  return run(stmt.body);
}

std::shared_ptr<Object> Interpreter::make_macro(const std::string& name, const Stmt& stmt) {
  budget_.bytes(sizeof(Macro) + sizeof(Scope));
  if (captured_.empty() || captured_.back() != scope_) captured_.push_back(scope_);
  return std::make_shared<Macro>(name, stmt, scope_);
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    at_ = target.at;
    const List parts = iterate(value, budget_);
    if (parts.size() != target.parts.size()) {
      refuse("{} values to unpack (expected {}, got {})",
             parts.size() < target.parts.size() ? "not enough" : "too many", target.parts.size(),
             parts.size());
    }
    for (size_t i = 0; i < parts.size(); ++i) assign(target.parts[i], parts[i]);
    return;
  }
  if (target.attribute.empty()) {
    scope_->set(target.name, value);
    return;
  }
  at_ = target.at;
  const Value* holder = scope_->find(target.name);
  auto* names = holder != nullptr && holder->is_object()
                    ? dynamic_cast<Namespace*>(holder->object().get())
                    : nullptr;
  if (names == nullptr) refuse("cannot assign attribute on non-namespace object");
  names->set(target.attribute, value, budget_);
}

Value Interpreter::eval_in(const Expr& expr, const std::shared_ptr<Scope>& scope) {
  const InScope in_scope(*this, scope);
  return eval(expr);
}

Value Interpreter::eval(const Expr& expr) {
  const Depth depth(*this);
  budget_.step();
  at_ = expr.at;
  return evaluate(expr);
}

Value Interpreter::evaluate(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.value;
    case ExprKind::kName:
      return eval_name(expr);
    case ExprKind::kList:
      return Value::list(eval_all(expr.args));
    case ExprKind::kTuple:
      return Value::tuple(eval_all(expr.args));
    case ExprKind::kDict:
      return eval_dict(expr);
    case ExprKind::kAttribute: {
      const Value value = eval(*expr.args[0]);
      at_ = expr.at;
      return attribute(value, expr.name);
    }
    case ExprKind::kItem: {
      const Value value = eval(*expr.args[0]);
      const Value key = eval(*expr.args[1]);
      at_ = expr.at;
      return item(value, key);
    }
    case ExprKind::kSlice:
      return eval_slice(expr);
    case ExprKind::kCall: {
      const Value callee = eval(*expr.args[0]);
      const Arguments arguments = eval_arguments(expr.call);
      at_ = expr.at;
      return call(callee, arguments);
    }
    case ExprKind::kFilter:
      return eval_filter(expr, nullptr);
    case ExprKind::kTest: {
      const Value value = eval(*expr.args[0]);
      const Arguments arguments = eval_arguments(expr.call);
      at_ = expr.at;
      return Value(test(expr.name, value, arguments));
    }
    case ExprKind::kUnary:
      return eval_unary(expr);
    case ExprKind::kBinary: {
      const Value a = eval(*expr.args[0]);
      const Value b = eval(*expr.args[1]);
      at_ = expr.at;
      return binary(expr.name, a, b, budget_);
    }
    case ExprKind::kConcat:
      return eval_concat(expr);
    case ExprKind::kCompare:
      return eval_compare(expr);
    case ExprKind::kAnd: {
      Value left = eval(*expr.args[0]);
      return left.truthy() ? eval(*expr.args[1]) : left;
    }
    case ExprKind::kOr: {
      Value left = eval(*expr.args[0]);
      return left.truthy() ? left : eval(*expr.args[1]);
    }
    case ExprKind::kConditional:
      return eval_conditional(expr);
  }
  return Value();
}

Value Interpreter::eval_name(const Expr& expr) {
  if (const Value* found = scope_->find(expr.name)) return *found;
  if (const Builtin function = find_function(expr.name)) {
    return Value(std::make_shared<Function>(function, Value()));
  }
  return Value::undefined(fmt::format("'{}' is undefined", expr.name));
}

Value Interpreter::eval_dict(const Expr& expr) {
  Dict out;
  for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
    Value key = eval(*expr.args[i]);
    Value value = eval(*expr.args[i + 1]);
    at_ = expr.at;
    out.set(std::move(key), std::move(value), budget_);
  }
  return Value(std::move(out));
}

Value Interpreter::eval_slice(const Expr& expr) {
  Value values[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expr.args[i]) values[i] = eval(*expr.args[i]);
  }
  at_ = expr.at;
  return slice(values[0], &values[1], &values[2], &values[3], budget_);
}

Value Interpreter::eval_compare(const Expr& expr) {
  Value left = eval(*expr.args[0]);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = eval(*expr.args[i + 1]);
    at_ = expr.at;
    const std::string& op = expr.operators[i];
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = equal(left, right, budget_) == (op == "==");
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left, budget_) == (op == "in");
    } else {
      holds = ordered(op, left, right, budget_);
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::eval_unary(const Expr& expr) {
  const Value value = eval(*expr.args[0]);
  at_ = expr.at;
  if (expr.name == "not") return Value(!value.truthy());
  if (expr.name == "-") return negate(value);
  return binary("+", Value(int64_t{0}), value, budget_);
}

Value Interpreter::eval_concat(const Expr& expr) {
  Text out(budget_);
  for (const ExprPtr& part : expr.args) append_str(out, eval(*part));
  return Value(out.take());
}

Value Interpreter::eval_conditional(const Expr& expr) {
  if (eval(*expr.args[1]).truthy()) return eval(*expr.args[0]);
  if (expr.args[2]) return eval(*expr.args[2]);
  return Value::undefined("the inline if-expression evaluated to false and no else was given");
}

Value Interpreter::eval_filter(const Expr& expr, const Value* block) {
  Value input;
  if (!expr.args[0]) {
    input = *block;
  } else if (block != nullptr) {
    input = eval_filter(*expr.args[0], block);
  } else {
    input = eval(*expr.args[0]);
  }
  const Arguments arguments = eval_arguments(expr.call);
  at_ = expr.at;
  return filter(expr.name, input, arguments);
}

List Interpreter::eval_all(const std::vector<ExprPtr>& exprs) {
  budget_.bytes(exprs.size() * sizeof(Value));
  List out;
  out.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) out.push_back(eval(*expr));
  return out;
}

Arguments Interpreter::eval_arguments(const CallArgs& args) {
  Arguments out;
  out.positional = eval_all(args.positional);
  for (const auto& [name, expr] : args.named) out.named.emplace_back(name, eval(*expr));
  if (args.rest) {
    for (Value& value : iterate(eval(*args.rest), budget_)) {
      out.positional.push_back(std::move(value));
    }
  }
  if (args.named_rest) {
    const Value rest = eval(*args.named_rest);
    if (!rest.is_dict()) refuse("argument after ** must be a mapping, not {}", rest.type_name());
    for (const auto& [name, value] : rest.dict().entries()) {
      if (!name.is_string()) refuse("keywords must be strings");
      out.named.emplace_back(name.string(), value);
    }
  }
  return out;
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  if (callee.is_undefined()) refuse("{}", callee.why());
  if (!callee.is_object()) refuse("'{}' object is not callable", callee.type_name());
  const Depth depth(*this);
  budget_.step();
  const std::shared_ptr<Object> object = callee.object();
  return object->call(*this, arguments);
}

Value Interpreter::filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const Builtin builtin = find_filter(name);
  if (builtin == nullptr) refuse("No filter named '{}'.", name);
  budget_.step();
  return builtin(*this, value, arguments);
}

bool Interpreter::test(const std::string& name, const Value& value, const Arguments& arguments) {
  const Builtin builtin = find_test(name);
  if (builtin == nullptr) refuse("No test named '{}'.", name);
  budget_.step();
  return builtin(*this, value, arguments).truthy();
}

Value Interpreter::attribute(const Value& value, const std::string& name) {
  if (value.is_undefined()) refuse("{}", value.why());
  if (const Builtin method = find_method(value, name)) {
    return Value(std::make_shared<Function>(method, value));
  }
  if (value.is_object()) {
    if (std::optional<Value> found = value.object()->attribute(name)) return *found;
  }
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(name)) return *found;
  }
  return Value::undefined(
      fmt::format("'{} object' has no attribute '{}'", value.type_name(), name));
}

Value Interpreter::item(const Value& value, const Value& key) {
  if (value.is_undefined()) refuse("{}", value.why());
  if (value.is_dict() && !key.is_sequence() && !key.is_dict()) {
    if (const Value* found = value.dict().find(key, budget_)) return *found;
  }
  if (value.is_sequence() && key.is_integral()) {
    const auto index = element_index(key.integer(), value.items().size());
    if (index) return value.items()[*index];
  }
  if (value.is_string() && key.is_integral()) {
    budget_.step(value.string().size() / 16);
    const std::vector<std::string_view> all = characters(value.string());
    const auto index = element_index(key.integer(), all.size());
    if (index) return Value(all[*index]);
  }
  if (key.is_string() && !value.is_dict()) return attribute(value, key.string());
  if (key.is_string() && find_method(value, key.string()) != nullptr) {
    return attribute(value, key.string());
  }
  return Value::undefined(
      fmt::format("'{} object' has no element of that {}", value.type_name(), key.type_name()));
}

}  // namespace weft::formats::jinja
