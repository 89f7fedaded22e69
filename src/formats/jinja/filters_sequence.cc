// The filters over lists and dicts.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "formats/jinja/builtins.h"
#include "formats/jinja/operators.h"
#include "formats/jinja/strings.h"

namespace weft::formats::jinja {
namespace {

Value length_filter(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  if (self.is_undefined()) return Value(int64_t{0});
  if (self.is_string()) {
    interpreter.budget().step(self.string().size() / 16);
    return Value(static_cast<int64_t>(length(self.string())));
  }
  if (self.is_sequence()) return Value(static_cast<int64_t>(self.items().size()));
  if (self.is_dict()) return Value(static_cast<int64_t>(self.dict().entries().size()));
  refuse("object of type '{}' has no len()", self.type_name());
}

Value first(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  const List items = iterate(self, interpreter.budget());
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  const List items = iterate(self, interpreter.budget());
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value list_filter(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  return Value::list(iterate(self, interpreter.budget()));
}

Value reverse(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  List items = iterate(self, interpreter.budget());
  std::reverse(items.begin(), items.end());
  if (!self.is_string()) return Value::list(std::move(items));
  std::string out;
  for (const Value& c : items) out += c.string();
  return Value(std::move(out));
}

Value join(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"d", "attribute"});
  Budget& budget = interpreter.budget();
  const std::string between = bound.get(0) == nullptr ? "" : str(*bound.get(0), budget);
  Text out(budget);
  bool is_first = true;
  for (const Value& item : iterate(self, budget)) {
    if (!is_first) out += between;
    is_first = false;
    append_str(out, bound.given(1) == nullptr ? item : dotted(interpreter, item, *bound.given(1)));
  }
  return Value(out.take());
}

Value items_filter(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  if (self.is_undefined()) return Value::list({});
  if (!self.is_dict()) refuse("Can only get item pairs from a mapping.");
  return find_method(self, "items")(interpreter, self, arguments);
}

// The arguments without the first `count` positional ones.
Arguments rest_of(const Arguments& arguments, size_t count) {
  Arguments out = arguments;
  out.positional.erase(out.positional.begin(), out.positional.begin() + count);
  return out;
}

const std::string& name_argument(const Arguments& arguments, size_t index) {
  if (!arguments.positional[index].is_string()) {
    refuse("the name of a filter or test must be a string");
  }
  return arguments.positional[index].string();
}

Value map(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  List out;
  if (!self.truthy()) return Value::list({});  // None too
  if (arguments.positional.empty()) {
    const Bound bound(arguments, {"attribute", "default"});
    for (const Value& item : iterate(self, interpreter.budget())) {
      Value value = dotted(interpreter, item, bound.need(0));
      if (value.is_undefined() && bound.get(1) != nullptr) value = *bound.get(1);
      out.push_back(std::move(value));
    }
  } else {
    const std::string& name = name_argument(arguments, 0);
    const Arguments rest = rest_of(arguments, 1);
    for (const Value& item : iterate(self, interpreter.budget())) {
      out.push_back(interpreter.filter(name, item, rest));
    }
  }
  return Value::list(std::move(out));
}

// select, reject, selectattr and rejectattr: items whose own truth, or whose answer to a named
// test, is `kWanted`.
template <bool kWanted, bool kByAttribute>
Value select(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (!self.truthy()) return Value::list({});
  constexpr size_t kBefore = kByAttribute ? 1 : 0;
  if (arguments.positional.size() < kBefore) refuse("Missing parameter for attribute name");
  const bool has_test = arguments.positional.size() > kBefore;
  const std::string name = has_test ? name_argument(arguments, kBefore) : "";
  const Arguments rest = has_test ? rest_of(arguments, kBefore + 1) : Arguments{};
  List out;
  for (const Value& item : iterate(self, interpreter.budget())) {
    const Value value = kByAttribute ? dotted(interpreter, item, arguments.positional[0]) : item;
    const bool holds = has_test ? interpreter.test(name, value, rest) : value.truthy();
    if (holds == kWanted) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value folded(const Value& value, bool case_sensitive) {
  return case_sensitive || !value.is_string() ? value : Value(lower(value.string()));
}

// Items with the keys that they are ordered or told apart by.
struct Keyed {
  Value key, item;
};

std::vector<Keyed> keyed(Interpreter& interpreter, const Value& self, const Value* attribute,
                         bool case_sensitive) {
  std::vector<Keyed> out;
  for (const Value& item : iterate(self, interpreter.budget())) {
    Value key;
    if (attribute != nullptr && attribute->is_string() &&
        attribute->string().find(',') != std::string::npos) {
      List keys;  // "a,b" orders by a, then by b
      for (std::string_view part : split(attribute->string(), ",", -1, false)) {
        keys.push_back(folded(dotted(interpreter, item, Value(part)), case_sensitive));
      }
      key = Value::list(std::move(keys));
    } else {
      key = folded(attribute == nullptr ? item : dotted(interpreter, item, *attribute),
                   case_sensitive);
    }
    interpreter.budget().bytes(sizeof(Keyed) + (key.is_string() ? key.string().size() : 0));
    out.push_back({std::move(key), item});
  }
  return out;
}

// Stable, as Python's sort is, in reverse too.
void order(std::vector<Keyed>& items, bool reverse, Budget& budget) {
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? compare(b.key, a.key, budget) < 0 : compare(a.key, b.key, budget) < 0;
  });
}

Value sort(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Keyed> items = keyed(interpreter, self, bound.given(2), bound.flag(1));
  order(items, bound.flag(0), interpreter.budget());
  List out;
  for (Keyed& entry : items) out.push_back(std::move(entry.item));
  return Value::list(std::move(out));
}

Value unique(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"case_sensitive", "attribute"});
  std::unordered_set<std::string> seen;
  List out;
  for (Keyed& entry : keyed(interpreter, self, bound.given(1), bound.flag(0))) {
    if (seen.insert(hash_key(entry.key, interpreter.budget())).second) {
      out.push_back(std::move(entry.item));
    }
  }
  return Value::list(std::move(out));
}

template <int kSign>
Value extreme(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"case_sensitive", "attribute"});
  const std::vector<Keyed> items = keyed(interpreter, self, bound.given(1), bound.flag(0));
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const Keyed* best = &items[0];
  for (const Keyed& entry : items) {
    if (kSign * compare(entry.key, best->key, interpreter.budget()) > 0) best = &entry;
  }
  return best->item;
}

Value sum(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"attribute", "start"});
  Value out = bound.get(1) == nullptr ? Value(int64_t{0}) : *bound.get(1);
  for (const Value& item : iterate(self, interpreter.budget())) {
    const Value value = bound.given(0) == nullptr ? item : dotted(interpreter, item, bound.need(0));
    out = binary("+", out, value, interpreter.budget());
  }
  return out;
}

Value dictsort(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.get(1) == nullptr ? "key" : str(*bound.get(1), interpreter.budget());
  if (by != "key" && by != "value") refuse("You can only sort by either \"key\" or \"value\"");
  if (!self.is_dict()) refuse("dictsort needs a mapping, not {}", self.type_name());
  const Value pairs = items_filter(interpreter, self, {});
  const Value position(int64_t{by == "key" ? 0 : 1});
  std::vector<Keyed> items = keyed(interpreter, pairs, &position, bound.flag(0));
  order(items, bound.flag(2), interpreter.budget());
  List out;
  for (Keyed& entry : items) out.push_back(std::move(entry.item));
  return Value::list(std::move(out));
}

Value groupby(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"attribute", "default", "case_sensitive"});
  std::vector<Keyed> items;
  for (const Value& item : iterate(self, interpreter.budget())) {
    Value key = dotted(interpreter, item, bound.need(0));
    if (key.is_undefined() && bound.get(1) != nullptr) key = *bound.get(1);
    items.push_back({folded(key, bound.flag(2)), item});
  }
  order(items, false, interpreter.budget());
  List out, group;
  for (size_t i = 0; i < items.size(); ++i) {
    group.push_back(items[i].item);
    if (i + 1 < items.size() && equal(items[i].key, items[i + 1].key, interpreter.budget()))
      continue;
    // The group is named by its first item's key, in the case that it has there.
    Value name = dotted(interpreter, group[0], bound.need(0));
    if (name.is_undefined() && bound.get(1) != nullptr) name = *bound.get(1);
    out.push_back(Value::tuple({std::move(name), Value::list(std::move(group))}));
    group.clear();
  }
  return Value::list(std::move(out));
}

Value batch(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"linecount", "fill_with"});
  bound.need(0);
  const int64_t count = bound.integer(0, 1);
  constexpr int64_t kMaxCount = 100000;
  if (count < 1 || count > kMaxCount) refuse("batch needs a count from 1 to {}", kMaxCount);
  List out, line;
  for (const Value& item : iterate(self, interpreter.budget())) {
    line.push_back(item);
    if (static_cast<int64_t>(line.size()) < count) continue;
    out.push_back(Value::list(std::move(line)));
    line.clear();
  }
  if (!line.empty()) {
    if (const Value* fill = bound.given(1)) {
      interpreter.budget().bytes(static_cast<size_t>(count) * sizeof(Value));
      line.resize(static_cast<size_t>(count), *fill);
    }
    out.push_back(Value::list(std::move(line)));
  }
  return Value::list(std::move(out));
}

}  // namespace

Builtin find_sequence_filter(const std::string& name) {
  static const std::unordered_map<std::string, Builtin> kFilters = {
      {"batch", batch},
      {"count", length_filter},
      {"dictsort", dictsort},
      {"first", first},
      {"groupby", groupby},
      {"items", items_filter},
      {"join", join},
      {"last", last},
      {"length", length_filter},
      {"list", list_filter},
      {"map", map},
      {"max", extreme<1>},
      {"min", extreme<-1>},
      {"reject", select<false, false>},
      {"rejectattr", select<false, true>},
      {"reverse", reverse},
      {"select", select<true, false>},
      {"selectattr", select<true, true>},
      {"sort", sort},
      {"sum", sum},
      {"unique", unique},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace weft::formats::jinja
