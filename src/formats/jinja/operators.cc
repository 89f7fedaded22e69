#include "formats/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "formats/jinja/format.h"
#include "formats/jinja/strings.h"

namespace weft::formats::jinja {
namespace {

[[noreturn]] void bad_operands(std::string_view op, const Value& a, const Value& b) {
  refuse("unsupported operand type(s) for {}: '{}' and '{}'", op, a.type_name(), b.type_name());
}

[[noreturn]] void too_large(std::string_view op) {
  unsupported("the result of {} is beyond 64 bits", op);
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t out = 1;
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(out, base, &out)) too_large("**");
    if (out == 0 || out == 1) return out;  // 0 and 1 stay; so do the rounds bounded by 2**63
    if (out == -1 && base == -1) return exponent % 2 == 1 ? -1 : 1;
  }
  return out;
}

Value integers(std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+" && !__builtin_add_overflow(a, b, &out)) return Value(out);
  if (op == "-" && !__builtin_sub_overflow(a, b, &out)) return Value(out);
  if (op == "*" && !__builtin_mul_overflow(a, b, &out)) return Value(out);
  if (op == "**") {
    return b < 0 ? Value(std::pow(static_cast<double>(a), static_cast<double>(b)))
                 : Value(power(a, b));
  }
  if (op == "/" || op == "//" || op == "%") {
    if (b == 0) refuse("division by zero");
    if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {  // the one quotient that overflows is that of the least integer
      if (op == "%") return Value(int64_t{0});
      if (__builtin_sub_overflow(int64_t{0}, a, &out)) too_large(op);
      return Value(out);
    }
    const int64_t quotient = a / b, rest = a % b;
    const bool rounds_down = rest != 0 && (rest < 0) != (b < 0);
    if (op == "//") return Value(quotient - rounds_down);
    return Value(rounds_down ? rest + b : rest);
  }
  too_large(op);
}

Value floats(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) refuse("float division by zero");
  if (op == "/") return Value(a / b);
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (op == "%") return Value(rest == 0 ? std::copysign(0.0, b) : rest);
  return Value(std::floor((a - rest) / b + 0.5));
}

Value concatenate(const Value& a, const Value& b, Budget& budget) {
  if (a.is_string()) {
    Text out(budget);
    out += a.string();
    out += b.string();
    return Value(out.take());
  }
  budget.bytes((a.items().size() + b.items().size()) * sizeof(Value));
  List items = a.items();
  items.insert(items.end(), b.items().begin(), b.items().end());
  return a.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

Value repeat(const Value& value, int64_t count, Budget& budget) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  const size_t unit =
      value.is_string() ? value.string().size() : value.items().size() * sizeof(Value);
  size_t bytes = 0;
  if (__builtin_mul_overflow(unit, times, &bytes)) bytes = Budget::kBytes + 1;
  budget.bytes(bytes);
  if (value.is_string()) {
    std::string out;
    if (bytes == 0) return Value(out);
    out.reserve(bytes);
    for (size_t i = 0; i < times; ++i) out += value.string();
    return Value(std::move(out));
  }
  List items;
  if (bytes != 0) {
    for (size_t i = 0; i < times; ++i) {
      items.insert(items.end(), value.items().begin(), value.items().end());
    }
  }
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

// Where a slice begins or ends, as Python clamps it.
int64_t slice_bound(const Value* bound, int64_t size, int64_t low, int64_t high, int64_t absent) {
  if (bound == nullptr || bound->is_none()) return absent;
  if (!bound->is_integral()) refuse("slice indices must be integers or None");
  int64_t at = bound->integer();
  if (at < 0) at = at < -size ? low - 1 : at + size;
  return std::clamp(at, low, high);
}

}  // namespace

Value binary(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  if (a.is_undefined()) refuse("{}", a.why());
  if (op == "%" && a.is_string()) return Value(percent_format(a.string(), b, budget));
  if (b.is_undefined()) refuse("{}", b.why());
  if (a.is_integral() && b.is_integral()) return integers(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return floats(op, a.number(), b.number());
  if (op == "+") {
    const bool alike = (a.is_string() && b.is_string()) || (a.is_list() && b.is_list()) ||
                       (a.is_tuple() && b.is_tuple());
    if (alike) return concatenate(a, b, budget);
    if (a.is_string()) refuse("can only concatenate str (not \"{}\") to str", b.type_name());
  }
  if (op == "*") {
    if (b.is_integral() && (a.is_string() || a.is_sequence())) {
      return repeat(a, b.integer(), budget);
    }
    if (a.is_integral() && (b.is_string() || b.is_sequence())) {
      return repeat(b, a.integer(), budget);
    }
  }
  bad_operands(op, a, b);
}

Value negate(const Value& value) {
  if (value.is_undefined()) refuse("{}", value.why());
  if (value.is_float()) return Value(-value.number());
  if (!value.is_integral()) refuse("bad operand type for unary -: '{}'", value.type_name());
  return integers("-", 0, value.integer());
}

bool contains(const Value& container, const Value& value, Budget& budget) {
  if (container.is_string()) {
    if (!value.is_string()) {
      refuse("'in <string>' requires string as left operand, not {}", value.type_name());
    }
    budget.step(container.string().size() / 64);
    return container.string().find(value.string()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(value, budget) != nullptr;
  if (container.is_undefined()) return false;
  if (!container.is_sequence()) {
    refuse("argument of type '{}' is not iterable", container.type_name());
  }
  return std::any_of(container.items().begin(), container.items().end(),
                     [&](const Value& item) { return equal(item, value, budget); });
}

Value slice(const Value& value, const Value* begin, const Value* end, const Value* step,
            Budget& budget) {
  if (value.is_undefined()) refuse("{}", value.why());
  if (!value.is_string() && !value.is_sequence()) {
    return Value::undefined(fmt::format("'{}' object cannot be sliced", value.type_name()));
  }
  const List all = iterate(value, budget);
  const auto size = static_cast<int64_t>(all.size());
  const bool has_step = step != nullptr && !step->is_none();
  if (has_step && !step->is_integral()) refuse("slice indices must be integers or None");
  const int64_t stride = has_step ? step->integer() : 1;
  if (stride == 0) refuse("slice step cannot be zero");
  const bool up = stride > 0;
  const int64_t low = up ? 0 : -1, high = up ? size : size - 1;
  const int64_t first = slice_bound(begin, size, low, high, up ? low : high);
  const int64_t last = slice_bound(end, size, low, high, up ? high : low);
  List out;
  for (int64_t i = first; up ? i < last : i > last;) {
    out.push_back(all[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (!value.is_string()) {
    return value.is_tuple() ? Value::tuple(std::move(out)) : Value::list(std::move(out));
  }
  std::string text;
  for (const Value& character : out) text += character.string();
  return Value(std::move(text));
}

std::optional<size_t> element_index(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < 0) index += count;
  if (index < 0 || index >= count) return std::nullopt;
  return static_cast<size_t>(index);
}

}  // namespace weft::formats::jinja
