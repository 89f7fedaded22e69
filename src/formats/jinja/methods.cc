// The methods of str, list, tuple and dict.
#include <algorithm>
#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/format.h"
#include "formats/jinja/strings.h"
#include "formats/unicode.h"

namespace weft::formats::jinja {
namespace {

const std::string& text_of(const Value& value) {
  if (!value.is_string()) refuse("must be str, not {}", value.type_name());
  return value.string();
}

List strings(const std::vector<std::string_view>& parts, Budget& budget) {
  budget.bytes(parts.size() * (sizeof(Value) + sizeof(std::string)));
  List out;
  for (std::string_view part : parts) out.emplace_back(part);
  return out;
}

template <Side kSide>
Value strip_method(Interpreter&, const Value& self, const Arguments& arguments) {
  const Value* set = Bound(arguments, {"chars"}).given(0);
  return Value(set == nullptr ? strip(self.string(), kSide)
                              : strip(self.string(), text_of(*set), kSide));
}

template <bool kFromRight>
Value split_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"sep", "maxsplit"});
  const Value* separator = bound.given(0);
  const int64_t limit = bound.integer(1, -1);
  interpreter.budget().step(self.string().size() / 16);
  const auto parts = separator == nullptr
                         ? split(self.string(), limit, kFromRight)
                         : split(self.string(), text_of(*separator), limit, kFromRight);
  return Value::list(strings(parts, interpreter.budget()));
}

Value splitlines(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const bool keep_ends = Bound(arguments, {"keepends"}).flag(0);
  return Value::list(strings(split_lines(self.string(), keep_ends), interpreter.budget()));
}

bool starts_with(std::string_view text, std::string_view with) {
  return text.substr(0, with.size()) == with;
}

bool ends_with(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

// str.startswith and endswith take one string or a tuple of them.
template <bool (*kTest)(std::string_view, std::string_view)>
Value affix_method(Interpreter&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.size() > 1) unsupported("startswith and endswith with positions");
  const Value& with = Bound(arguments, {"prefix"}).need(0);
  if (!with.is_tuple()) return Value(kTest(self.string(), text_of(with)));
  return Value(std::any_of(with.items().begin(), with.items().end(),
                           [&](const Value& one) { return kTest(self.string(), text_of(one)); }));
}

Value remove_prefix(Interpreter&, const Value& self, const Arguments& arguments) {
  const std::string& prefix = text_of(Bound(arguments, {"prefix"}).need(0));
  const std::string& text = self.string();
  return starts_with(text, prefix) ? Value(text.substr(prefix.size())) : self;
}

Value remove_suffix(Interpreter&, const Value& self, const Arguments& arguments) {
  const std::string& suffix = text_of(Bound(arguments, {"suffix"}).need(0));
  const std::string& text = self.string();
  return ends_with(text, suffix) ? Value(text.substr(0, text.size() - suffix.size())) : self;
}

Value replace_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"old", "new", "count"});
  return Value(replace(self.string(), text_of(bound.need(0)), text_of(bound.need(1)),
                       bound.integer(2, -1), interpreter.budget()));
}

template <std::string (*kMap)(std::string_view)>
Value map_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  interpreter.budget().bytes(self.string().size() * 2);
  return Value(kMap(self.string()));
}

Value join_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Text out(interpreter.budget());
  bool first = true;
  for (const Value& item : iterate(Bound(arguments, {"iterable"}).need(0), interpreter.budget())) {
    if (!first) out += self.string();
    first = false;
    out += text_of(item);
  }
  return Value(out.take());
}

// The part of a str that find, index and count search: [start, end) in characters.
struct Window {
  std::string_view text;
  int64_t offset = 0;
  bool is_valid = true;
};

Window window(std::string_view text, const Bound& bound) {
  const Value *start = bound.given(1), *end = bound.given(2);
  if (start == nullptr && end == nullptr) return {text};
  const std::vector<std::string_view> all = characters(text);
  const auto size = static_cast<int64_t>(all.size());
  const auto clamp = [&](int64_t at) {
    return std::max<int64_t>(at < 0 ? (at < -size ? 0 : at + size) : at, 0);
  };
  const int64_t from = clamp(start == nullptr ? 0 : bound.integer(1, 0));
  const int64_t to = std::min(clamp(end == nullptr ? size : bound.integer(2, 0)), size);
  if (from > to) return {{}, 0, false};
  const auto byte_at = [&](int64_t at) {
    return at == size ? text.size() : static_cast<size_t>(all[at].data() - text.data());
  };
  return {text.substr(byte_at(from), byte_at(to) - byte_at(from)), from};
}

template <bool kFromRight, bool kMustBeThere>
Value find_method_of(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"sub", "start", "end"});
  interpreter.budget().step(self.string().size() / 16);
  const Window in = window(self.string(), bound);
  const int64_t at = in.is_valid ? find(in.text, text_of(bound.need(0)), kFromRight) : -1;
  if (at < 0 && kMustBeThere) refuse("substring not found");
  return Value(at < 0 ? at : at + in.offset);
}

Value count_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"sub", "start", "end"});
  interpreter.budget().step(self.string().size() / 16);
  const Window in = window(self.string(), bound);
  return Value(in.is_valid ? count(in.text, text_of(bound.need(0))) : int64_t{0});
}

Value format_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return Value(brace_format(self.string(), arguments, interpreter.budget()));
}

template <bool kFromRight>
Value partition(Interpreter&, const Value& self, const Arguments& arguments) {
  const std::string& separator = text_of(Bound(arguments, {"sep"}).need(0));
  if (separator.empty()) refuse("empty separator");
  const std::string& text = self.string();
  const size_t at = kFromRight ? text.rfind(separator) : text.find(separator);
  const Value none("");
  if (at == std::string::npos) {
    return Value::tuple(kFromRight ? List{none, none, self} : List{self, none, none});
  }
  return Value::tuple(
      {Value(text.substr(0, at)), Value(separator), Value(text.substr(at + separator.size()))});
}

// Every character is one of `kinds`, and there is one.
template <bool (*kIs)(std::string_view)>
Value all_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  interpreter.budget().step(self.string().size() / 16);
  const std::vector<std::string_view> all = characters(self.string());
  return Value(!all.empty() && std::all_of(all.begin(), all.end(), kIs));
}

bool is_space(std::string_view c) { return strip(c, Side::kBoth).empty(); }
bool is_alpha(std::string_view c) {
  const Utf8Unit unit = read_utf8(c, 0);
  return unit.valid && is_letter(char_class(unit.code));
}
bool is_decimal(std::string_view c) { return c.size() == 1 && c[0] >= '0' && c[0] <= '9'; }
bool is_alnum(std::string_view c) {
  const Utf8Unit unit = read_utf8(c, 0);
  return unit.valid &&
         (is_letter(char_class(unit.code)) || char_class(unit.code) == CharClass::kNumber);
}

template <bool (*kIs)(std::string_view)>
Value case_method(Interpreter&, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  return Value(kIs(self.string()));
}

Value sequence_count(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& wanted = Bound(arguments, {"value"}).need(0);
  return Value(
      int64_t{std::count_if(self.items().begin(), self.items().end(), [&](const Value& item) {
        return equal(item, wanted, interpreter.budget());
      })});
}

Value sequence_index(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& wanted = Bound(arguments, {"value"}).need(0);
  for (size_t i = 0; i < self.items().size(); ++i) {
    if (equal(self.items()[i], wanted, interpreter.budget())) {
      return Value(static_cast<int64_t>(i));
    }
  }
  refuse("the value is not in the {}", self.type_name());
}

Value copy(Interpreter&, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  return self;
}

Value dict_get(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"key", "default"});
  const Value* found = self.dict().find(bound.need(0), interpreter.budget());
  if (found != nullptr) return *found;
  return bound.get(1) == nullptr ? Value() : *bound.get(1);
}

Value dict_keys(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  return Value::list(iterate(self, interpreter.budget()));
}

Value dict_values(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  interpreter.budget().bytes(self.dict().entries().size() * sizeof(Value));
  List out;
  for (const auto& [key, value] : self.dict().entries()) out.push_back(value);
  return Value::list(std::move(out));
}

Value dict_items(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  interpreter.budget().bytes(self.dict().entries().size() * 4 * sizeof(Value));
  List out;
  for (const auto& [key, value] : self.dict().entries()) out.push_back(Value::tuple({key, value}));
  return Value::list(std::move(out));
}

Value refuse_to_mutate(Interpreter&, const Value& self, const Arguments&) {
  refuse("methods that change a {} are not allowed in templates", self.type_name());
}

Value not_supported(Interpreter&, const Value& self, const Arguments&) {
  unsupported("this method of {} values", self.type_name());
}

using Methods = std::unordered_map<std::string, Builtin>;

const Methods& string_methods() {
  static const Methods kMethods = {
      {"strip", strip_method<Side::kBoth>},
      {"lstrip", strip_method<Side::kLeft>},
      {"rstrip", strip_method<Side::kRight>},
      {"split", split_method<false>},
      {"rsplit", split_method<true>},
      {"splitlines", splitlines},
      {"startswith", affix_method<starts_with>},
      {"endswith", affix_method<ends_with>},
      {"removeprefix", remove_prefix},
      {"removesuffix", remove_suffix},
      {"replace", replace_method},
      {"upper", map_method<upper>},
      {"lower", map_method<lower>},
      {"title", map_method<title>},
      {"capitalize", map_method<capitalize>},
      {"join", join_method},
      {"find", find_method_of<false, false>},
      {"rfind", find_method_of<true, false>},
      {"index", find_method_of<false, true>},
      {"rindex", find_method_of<true, true>},
      {"count", count_method},
      {"format", format_method},
      {"partition", partition<false>},
      {"rpartition", partition<true>},
      {"isspace", all_method<is_space>},
      {"isalpha", all_method<is_alpha>},
      {"isalnum", all_method<is_alnum>},
      {"isdigit", all_method<is_decimal>},
      {"isdecimal", all_method<is_decimal>},
      {"isnumeric", all_method<is_decimal>},
      {"isupper", case_method<is_upper>},
      {"islower", case_method<is_lower>},
      {"casefold", not_supported},
      {"center", not_supported},
      {"encode", not_supported},
      {"expandtabs", not_supported},
      {"format_map", not_supported},
      {"isascii", not_supported},
      {"isidentifier", not_supported},
      {"isprintable", not_supported},
      {"istitle", not_supported},
      {"ljust", not_supported},
      {"maketrans", not_supported},
      {"rjust", not_supported},
      {"swapcase", not_supported},
      {"translate", not_supported},
      {"zfill", not_supported},
  };
  return kMethods;
}

const Methods& list_methods() {
  static const Methods kMethods = {
      {"count", sequence_count},     {"index", sequence_index},   {"copy", copy},
      {"append", refuse_to_mutate},  {"clear", refuse_to_mutate}, {"extend", refuse_to_mutate},
      {"insert", refuse_to_mutate},  {"pop", refuse_to_mutate},   {"remove", refuse_to_mutate},
      {"reverse", refuse_to_mutate}, {"sort", refuse_to_mutate},
  };
  return kMethods;
}

const Methods& tuple_methods() {
  static const Methods kMethods = {{"count", sequence_count}, {"index", sequence_index}};
  return kMethods;
}

const Methods& dict_methods() {
  static const Methods kMethods = {
      {"get", dict_get},
      {"keys", dict_keys},
      {"values", dict_values},
      {"items", dict_items},
      {"copy", copy},
      {"clear", refuse_to_mutate},
      {"fromkeys", not_supported},
      {"pop", refuse_to_mutate},
      {"popitem", refuse_to_mutate},
      {"setdefault", refuse_to_mutate},
      {"update", refuse_to_mutate},
  };
  return kMethods;
}

const Methods* methods_of(const Value& self) {
  if (self.is_string()) return &string_methods();
  if (self.is_dict()) return &dict_methods();
  if (self.is_list()) return &list_methods();
  return self.is_tuple() ? &tuple_methods() : nullptr;
}

}  // namespace

Builtin find_method(const Value& self, const std::string& name) {
  const Methods* methods = methods_of(self);
  if (methods == nullptr) return nullptr;
  const auto found = methods->find(name);
  return found == methods->end() ? nullptr : found->second;
}

}  // namespace weft::formats::jinja
