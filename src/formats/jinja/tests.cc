// The tests of `x is NAME`.
#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/operators.h"
#include "formats/jinja/strings.h"

namespace weft::formats::jinja {
namespace {

using Test = bool (*)(Interpreter&, const Value&, const Arguments&);

template <Test kTest>
Value answer(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return Value(kTest(interpreter, self, arguments));
}

bool no_arguments(const Arguments& arguments, bool holds) {
  Bound(arguments, {});
  return holds;
}

#define WEFT_SIMPLE_TEST(NAME, CONDITION)                                                   \
  bool NAME(Interpreter&, [[maybe_unused]] const Value& self, const Arguments& arguments) { \
    return no_arguments(arguments, CONDITION);                                              \
  }

WEFT_SIMPLE_TEST(is_defined, !self.is_undefined())
WEFT_SIMPLE_TEST(is_undefined, self.is_undefined())
WEFT_SIMPLE_TEST(is_none, self.is_none())
WEFT_SIMPLE_TEST(is_boolean, self.is_bool())
WEFT_SIMPLE_TEST(is_true, self.is_bool() && self.truthy())
WEFT_SIMPLE_TEST(is_false, self.is_bool() && !self.truthy())
WEFT_SIMPLE_TEST(is_integer, self.is_int())
WEFT_SIMPLE_TEST(is_float, self.is_float())
WEFT_SIMPLE_TEST(is_number, self.is_number())
WEFT_SIMPLE_TEST(is_string, self.is_string())
WEFT_SIMPLE_TEST(is_mapping, self.is_dict())
WEFT_SIMPLE_TEST(is_sequence,
                 self.is_sequence() || self.is_dict() || self.is_string() || self.is_undefined())
WEFT_SIMPLE_TEST(is_iterable,
                 self.is_sequence() || self.is_dict() || self.is_string() || self.is_undefined())
WEFT_SIMPLE_TEST(is_callable, self.is_object() && self.object()->callable())
WEFT_SIMPLE_TEST(is_escaped, false)
WEFT_SIMPLE_TEST(is_filter, self.is_string() && find_filter(self.string()) != nullptr)
WEFT_SIMPLE_TEST(is_test, self.is_string() && find_test(self.string()) != nullptr)
#undef WEFT_SIMPLE_TEST

bool is_lower_case(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return no_arguments(arguments, is_lower(str(self, interpreter.budget())));
}

bool is_upper_case(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return no_arguments(arguments, is_upper(str(self, interpreter.budget())));
}

bool divides(Interpreter& interpreter, const Value& self, const Value& by) {
  const Value rest = binary("%", self, by, interpreter.budget());
  return rest.is_number() && rest.number() == 0;
}

bool is_odd(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value rest = binary("%", self, Value(int64_t{2}), interpreter.budget());
  return no_arguments(arguments, rest.is_number() && rest.number() == 1);
}

bool is_even(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return no_arguments(arguments, divides(interpreter, self, Value(int64_t{2})));
}

bool is_divisible_by(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return divides(interpreter, self, Bound(arguments, {"num"}).need(0));
}

bool is_in(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return contains(Bound(arguments, {"seq"}).need(0), self, interpreter.budget());
}

bool is_same_as(Interpreter&, const Value& self, const Arguments& arguments) {
  return self.same_as(Bound(arguments, {"other"}).need(0));
}

bool is_equal(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return equal(self, Bound(arguments, {"other"}).need(0), interpreter.budget());
}

bool is_not_equal(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return !is_equal(interpreter, self, arguments);
}

bool is_less(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return compare(self, Bound(arguments, {"other"}).need(0), interpreter.budget()) < 0;
}

bool is_greater(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return compare(self, Bound(arguments, {"other"}).need(0), interpreter.budget()) > 0;
}

bool is_at_most(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return !is_greater(interpreter, self, arguments);
}

bool is_at_least(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return !is_less(interpreter, self, arguments);
}

}  // namespace

Builtin find_test(const std::string& name) {
  static const std::unordered_map<std::string, Builtin> kTests = {
      {"defined", answer<is_defined>},
      {"undefined", answer<is_undefined>},
      {"none", answer<is_none>},
      {"boolean", answer<is_boolean>},
      {"true", answer<is_true>},
      {"false", answer<is_false>},
      {"integer", answer<is_integer>},
      {"float", answer<is_float>},
      {"number", answer<is_number>},
      {"string", answer<is_string>},
      {"mapping", answer<is_mapping>},
      {"sequence", answer<is_sequence>},
      {"iterable", answer<is_iterable>},
      {"callable", answer<is_callable>},
      {"escaped", answer<is_escaped>},
      {"filter", answer<is_filter>},
      {"test", answer<is_test>},
      {"lower", answer<is_lower_case>},
      {"upper", answer<is_upper_case>},
      {"odd", answer<is_odd>},
      {"even", answer<is_even>},
      {"divisibleby", answer<is_divisible_by>},
      {"in", answer<is_in>},
      {"sameas", answer<is_same_as>},
      {"eq", answer<is_equal>},
      {"equalto", answer<is_equal>},
      {"==", answer<is_equal>},
      {"ne", answer<is_not_equal>},
      {"!=", answer<is_not_equal>},
      {"lt", answer<is_less>},
      {"lessthan", answer<is_less>},
      {"<", answer<is_less>},
      {"gt", answer<is_greater>},
      {"greaterthan", answer<is_greater>},
      {">", answer<is_greater>},
      {"le", answer<is_at_most>},
      {"<=", answer<is_at_most>},
      {"ge", answer<is_at_least>},
      {">=", answer<is_at_least>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace weft::formats::jinja
