// The global functions: jinja2's, and those that transformers adds.
#include <ctime>
#include <unordered_map>

#include "formats/jinja/builtins.h"

namespace weft::formats::jinja {
namespace {

Value raise_exception(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  refuse("{}", str(Bound(arguments, {"message"}).need(0), interpreter.budget()));
}

Value range(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  const Bound bound(arguments, {"start", "stop", "step"});
  const bool only_stop = bound.get(1) == nullptr;
  bound.need(0);
  const int64_t begin = only_stop ? 0 : bound.integer(0, 0);
  const int64_t end = bound.integer(only_stop ? 0 : 1, 0);
  const int64_t step = bound.integer(2, 1);
  if (step == 0) refuse("range() arg 3 must not be zero");
  constexpr size_t kMaxRange = 100000;  // jinja2's sandbox has the same
  List out;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (out.size() == kMaxRange) refuse("Range too big. The maximum size is {}.", kMaxRange);
    out.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  interpreter.budget().step(out.size());
  interpreter.budget().bytes(out.size() * sizeof(Value));
  return Value::list(std::move(out));
}

// dict(mapping or pairs, name=value, ...)
Dict make_dict(Interpreter& interpreter, const Arguments& arguments) {
  Budget& budget = interpreter.budget();
  if (arguments.positional.size() > 1) refuse("dict expected at most 1 argument");
  Dict out;
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().entries()) out.set(key, value, budget);
    } else {
      for (const Value& entry : iterate(from, budget)) {
        const List pair = iterate(entry, budget);
        if (pair.size() != 2) refuse("dictionary update sequence elements need length 2");
        out.set(pair[0], pair[1], budget);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) out.set(Value(name), value, budget);
  return out;
}

Value dict(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  return Value(make_dict(interpreter, arguments));
}

Value make_namespace(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  auto out = std::make_shared<Namespace>();
  interpreter.budget().bytes(sizeof(Namespace));
  interpreter.emptied_at_end(out);
  const Dict attributes = make_dict(interpreter, arguments);
  for (const auto& [name, value] : attributes.entries()) {
    if (!name.is_string()) refuse("namespace attributes must be named by strings");
    out->set(name.string(), value, interpreter.budget());
  }
  return Value(std::shared_ptr<Object>(std::move(out)));
}

Value strftime_now(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  const Value& format = Bound(arguments, {"format"}).need(0);
  if (!format.is_string()) refuse("strftime() argument must be str, not {}", format.type_name());
  std::tm now = {};
  const Value* fixed = interpreter.variable("unix_time_now");
  const std::time_t seconds =
      fixed != nullptr && fixed->is_int() ? fixed->integer() : std::time(nullptr);
  if ((fixed != nullptr ? gmtime_r(&seconds, &now) : localtime_r(&seconds, &now)) == nullptr) {
    refuse("unix_time_now is out of range");
  }
  // A conversion grows to some 30 characters at most; the space behind it tells an empty result
  // from a full buffer.
  const std::string padded = format.string() + " ";
  std::string out(padded.size() * 32 + 64, '\0');
  interpreter.budget().bytes(out.size());
  out.resize(std::strftime(out.data(), out.size(), padded.c_str(), &now));
  if (!out.empty()) out.pop_back();
  return Value(std::move(out));
}

}  // namespace

Builtin find_function(const std::string& name) {
  static const std::unordered_map<std::string, Builtin> kFunctions = {
      {"raise_exception", raise_exception},
      {"range", range},
      {"dict", dict},
      {"namespace", make_namespace},
      {"strftime_now", strftime_now},
  };
  const auto found = kFunctions.find(name);
  return found == kFunctions.end() ? nullptr : found->second;
}

}  // namespace weft::formats::jinja
