#include "formats/jinja/objects.h"

#include <algorithm>

namespace weft::formats::jinja {

std::optional<Value> Namespace::attribute(const std::string& name) {
  const Value* found = attributes_.find(name);
  return found == nullptr ? std::nullopt : std::optional<Value>(*found);
}

void Namespace::set(const std::string& name, Value value, Budget& budget) {
  attributes_.set(Value(name), std::move(value), budget);
}

std::optional<Value> Macro::attribute(const std::string& name) {
  if (name == "name") return Value(name_);
  return std::nullopt;
}

// Arguments fill parameters in order, then by name; then defaults are evaluated, each seeing the
// parameters before it.
Value Macro::call(Interpreter& interpreter, const Arguments& arguments) {
  auto scope = std::make_shared<Scope>();
  scope->parent = scope_;
  const auto& parameters = stmt_.parameters;
  List extra;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < parameters.size()) {
      scope->set(parameters[i].name, arguments.positional[i]);
    } else {
      extra.push_back(arguments.positional[i]);
    }
  }
  if (!extra.empty() && !stmt_.reads_varargs) {
    refuse("macro '{}' takes not more than {} argument(s)", name_, parameters.size());
  }
  Dict rest;
  for (const auto& named : arguments.named) {
    const std::string& name = named.first;
    const Value& value = named.second;
    const auto place = std::find_if(parameters.begin(), parameters.end(),
                                    [&](const Parameter& p) { return p.name == name; });
    if (place == parameters.end()) {
      if (name == "caller") {
        scope->set(name, value);
      } else {
        if (!stmt_.reads_kwargs) {
          refuse("macro '{}' takes no keyword argument '{}'", name_, name);
        }
        rest.set(Value(name), value, interpreter.budget());
      }
    } else if (static_cast<size_t>(place - parameters.begin()) < arguments.positional.size()) {
      refuse("macro '{}' got multiple values for argument '{}'", name_, name);
    } else {
      scope->set(name, value);
    }
  }
  for (size_t i = arguments.positional.size(); i < parameters.size(); ++i) {
    const auto given = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& n) { return n.first == parameters[i].name; });
    if (given != arguments.named.end()) continue;
    scope->set(
        parameters[i].name,
        parameters[i].fallback
            ? interpreter.eval_in(*parameters[i].fallback, scope)
            : Value::undefined(fmt::format("parameter '{}' was not provided", parameters[i].name)));
  }
  if (stmt_.reads_varargs) scope->set("varargs", Value::tuple(std::move(extra)));
  if (stmt_.reads_kwargs) scope->set("kwargs", Value(std::move(rest)));
  return Value(interpreter.capture(stmt_.body, scope));
}

namespace {

Loop& loop_of(const Value& self) { return static_cast<Loop&>(*self.object()); }

Value loop_changed(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return Value(loop_of(self).changed(arguments, interpreter.budget()));
}

Value loop_cycle(Interpreter&, const Value& self, const Arguments& arguments) {
  return loop_of(self).cycle(arguments);
}

}  // namespace

std::optional<Value> Loop::attribute(const std::string& name) {
  const auto count = static_cast<int64_t>(items_.size());
  const auto index = static_cast<int64_t>(index_);
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(count - index);
  if (name == "revindex0") return Value(count - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == count);
  if (name == "length") return Value(count);
  if (name == "depth") return Value(int64_t{depth_} + 1);
  if (name == "depth0") return Value(int64_t{depth_});
  if (name == "previtem") {
    return index > 0 ? items_[index - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < count ? items_[index + 1] : Value::undefined("there is no next item");
  }
  if (name == "changed" || name == "cycle") {
    return Value(std::make_shared<Function>(name == "cycle" ? loop_cycle : loop_changed,
                                            Value(shared_from_this())));
  }
  return std::nullopt;
}

Value Loop::call(Interpreter& interpreter, const Arguments& arguments) {
  if (!stmt_.recursive) {
    refuse("The loop must have the 'recursive' marker enabled to be called");
  }
  if (arguments.positional.size() != 1) refuse("loop() takes one argument");
  return Value(interpreter.capture_loop(stmt_, arguments.positional[0], scope_, depth_ + 1));
}

bool Loop::changed(const Arguments& arguments, Budget& budget) {
  Value now = Value::tuple(arguments.positional);
  if (last_seen_ && equal(*last_seen_, now, budget)) return false;
  last_seen_ = std::move(now);
  return true;
}

Value Loop::cycle(const Arguments& arguments) const {
  if (arguments.positional.empty()) refuse("no items for cycling given");
  return arguments.positional[index_ % arguments.positional.size()];
}

}  // namespace weft::formats::jinja
