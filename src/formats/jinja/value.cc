#include "formats/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "formats/jinja/strings.h"

namespace weft::formats::jinja {
namespace {

int bounded_depth(int children) {
  if (children >= Value::kMaxDepth) refuse("values nest deeper than {}", Value::kMaxDepth);
  return children + 1;
}

}  // namespace

Value::Value(std::string value) : data_(std::make_shared<const std::string>(std::move(value))) {}

Value::Value(Dict dict) : data_(std::make_shared<const Dict>(std::move(dict))) {}

Value Value::undefined(std::string why) {
  Value out;
  out.data_ = Undefined{std::make_shared<const std::string>(std::move(why))};
  return out;
}

Value Value::sequence(List items, bool is_tuple) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  Value out;
  out.data_ =
      Sequence{std::make_shared<const List>(std::move(items)), is_tuple, bounded_depth(depth)};
  return out;
}

Value Value::from_json(const nlohmann::ordered_json& json, Budget& budget, int depth) {
  if (depth > kMaxDepth) refuse("the template's input nests deeper than {}", kMaxDepth);
  budget.bytes(sizeof(Value));
  if (json.is_null()) return Value();
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_float()) return Value(json.get<double>());
  if (json.is_number_unsigned() &&
      json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    unsupported("the template's input has a number beyond 64 bits: {}", json.get<uint64_t>());
  }
  if (json.is_number()) return Value(json.get<int64_t>());
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    budget.bytes(text.size());
    return Value(text);
  }
  if (json.is_array()) {
    List items;
    for (const auto& item : json) items.push_back(from_json(item, budget, depth + 1));
    return list(std::move(items));
  }
  if (!json.is_object()) refuse("the template's input has a value of type {}", json.type_name());
  Dict dict;
  for (const auto& [key, value] : json.items()) {
    dict.set(Value(key), from_json(value, budget, depth + 1), budget);
  }
  return Value(std::move(dict));
}

int64_t Value::integer() const {
  return is_bool() ? int64_t{std::get<bool>(data_)} : std::get<int64_t>(data_);
}

double Value::number() const {
  return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
}

bool Value::truthy() const {
  if (is_none() || is_undefined()) return false;
  if (is_number()) return number() != 0;
  if (is_string()) return !string().empty();
  if (is_sequence()) return !items().empty();
  if (is_dict()) return !dict().entries().empty();
  return true;
}

std::string Value::type_name() const {
  static constexpr const char* kNames[] = {"NoneType", "Undefined", "bool", "int", "float", "str"};
  if (data_.index() < std::size(kNames)) return kNames[data_.index()];
  if (is_sequence()) return is_tuple() ? "tuple" : "list";
  return is_dict() ? "dict" : object()->type_name();
}

int Value::depth() const {
  if (is_sequence()) return std::get<Sequence>(data_).depth;
  return is_dict() ? dict().depth() : 0;
}

bool Value::same_as(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_none()) return true;
  if (is_undefined()) return &why() == &other.why();
  if (is_number()) return number() == other.number();
  if (is_string()) return &string() == &other.string();
  if (is_sequence()) return &items() == &other.items();
  if (is_dict()) return &dict() == &other.dict();
  return object() == other.object();
}

const Value* Dict::find(const Value& key, Budget& budget) const {
  const auto found = index_.find(hash_key(key, budget));
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::find(std::string_view key) const {
  std::string name = "s";
  name += key;
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

void Dict::set(Value key, Value value, Budget& budget) {
  std::string name = hash_key(key, budget);
  budget.bytes(sizeof(Entry) + name.size());
  depth_ = std::max(depth_, bounded_depth(std::max(key.depth(), value.depth())));
  const auto [place, added] = index_.try_emplace(std::move(name), entries_.size());
  if (added) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[place->second].second = std::move(value);
  }
}

std::optional<Value> Object::attribute(const std::string&) { return std::nullopt; }

Value Object::call(Interpreter&, const Arguments&) {
  refuse("'{}' object is not callable", type_name());
}

std::string hash_key(const Value& value, Budget& budget) {
  budget.step();
  if (value.is_string()) {
    budget.bytes(value.string().size());
    return fmt::format("s{}", value.string());
  }
  if (value.is_none()) return "N";
  if (value.is_undefined()) return "U";
  if (value.is_integral()) return fmt::format("i{}", value.integer());
  if (value.is_float()) {
    const double number = value.number();
    if (std::trunc(number) == number && std::fabs(number) < 9.2e18) {
      return fmt::format("i{}", static_cast<int64_t>(number));
    }
    return fmt::format("f{}", float_repr(number));
  }
  if (value.is_object()) return fmt::format("o{}", static_cast<void*>(value.object().get()));
  if (!value.is_tuple()) refuse("unhashable type: '{}'", value.type_name());
  std::string out = "t";
  for (const Value& item : value.items()) {
    const std::string part = hash_key(item, budget);
    budget.bytes(part.size() + 8);
    out += fmt::format("{}:{}", part.size(), part);
  }
  return out;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_string() && b.is_string()) {
    budget.step(std::min(a.string().size(), b.string().size()) / 64);
    return a.string() == b.string();
  }
  if (a.same_as(b)) return true;
  if (a.is_sequence() && b.is_sequence()) {
    return a.is_tuple() == b.is_tuple() && a.items().size() == b.items().size() &&
           std::equal(a.items().begin(), a.items().end(), b.items().begin(),
                      [&](const Value& x, const Value& y) { return equal(x, y, budget); });
  }
  if (!a.is_dict() || !b.is_dict()) return false;
  if (a.dict().entries().size() != b.dict().entries().size()) return false;
  for (const auto& [key, value] : a.dict().entries()) {
    const Value* other = b.dict().find(key, budget);
    if (other == nullptr || !equal(value, *other, budget)) return false;
  }
  return true;
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_undefined()) refuse("{}", a.why());
  if (b.is_undefined()) refuse("{}", b.why());
  if (a.is_integral() && b.is_integral()) {
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  }
  if (a.is_number() && b.is_number()) {
    return a.number() < b.number() ? -1 : a.number() > b.number();
  }
  if (a.is_string() && b.is_string()) {
    budget.step(std::min(a.string().size(), b.string().size()) / 64);
    return a.string().compare(b.string());
  }
  if (!a.is_sequence() || !b.is_sequence() || a.is_tuple() != b.is_tuple()) {
    refuse("'<' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name());
  }
  const size_t common = std::min(a.items().size(), b.items().size());
  for (size_t i = 0; i < common; ++i) {
    if (!equal(a.items()[i], b.items()[i], budget)) {
      return compare(a.items()[i], b.items()[i], budget);
    }
  }
  return a.items().size() < b.items().size() ? -1 : a.items().size() > b.items().size();
}

List iterate(const Value& value, Budget& budget) {
  List out;
  if (value.is_undefined()) return out;
  if (value.is_sequence()) {
    out = value.items();
  } else if (value.is_dict()) {
    for (const auto& [key, unused] : value.dict().entries()) out.push_back(key);
  } else if (value.is_string()) {
    budget.bytes(value.string().size() * 2 * sizeof(Value));
    for (std::string_view c : characters(value.string())) out.emplace_back(c);
  } else {
    refuse("'{}' object is not iterable", value.type_name());
  }
  budget.step(out.size());
  budget.bytes(out.size() * sizeof(Value));
  return out;
}

}  // namespace weft::formats::jinja
