// The values of a template: Python's, as far as templates can see them. All but objects are
// immutable and shared (the sandbox that transformers renders in forbids mutation too), so copies
// are cheap, cycles impossible, and the nesting depth is known when a container is made.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "formats/jinja/budget.h"

namespace weft::formats::jinja {

class Value;
class Dict;
class Object;
class Interpreter;

using List = std::vector<Value>;

// The arguments of a call, a filter or a test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// jinja2's Undefined: prints as nothing, is false and empty; anything else done with it fails.
struct Undefined {
  std::shared_ptr<const std::string> why;  // "'x' is undefined"
};

struct None {};

// Lists and tuples differ in how they print and compare.
struct Sequence {
  std::shared_ptr<const List> items;
  bool is_tuple = false;
  int depth = 1;
};

class Value {
 public:
  Value() : data_(None{}) {}
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(std::string value);
  explicit Value(std::string_view value) : Value(std::string(value)) {}
  explicit Value(const char* value) : Value(std::string(value)) {}
  explicit Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}
  explicit Value(Dict dict);

  static Value undefined(std::string why);
  static Value list(List items) { return sequence(std::move(items), false); }
  static Value tuple(List items) { return sequence(std::move(items), true); }
  // kInvalidInput (a Failure) for numbers beyond 64 bits and nesting beyond kMaxDepth.
  static Value from_json(const nlohmann::ordered_json& json, Budget& budget, int depth = 0);

  static constexpr int kMaxDepth = 100;

  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_bool() const { return is<bool>(); }
  bool is_int() const { return is<int64_t>(); }
  bool is_float() const { return is<double>(); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_integral() const { return is_bool() || is_int(); }
  bool is_string() const { return is<Shared>(); }
  bool is_sequence() const { return is<Sequence>(); }
  bool is_list() const { return is_sequence() && !std::get<Sequence>(data_).is_tuple; }
  bool is_tuple() const { return is_sequence() && std::get<Sequence>(data_).is_tuple; }
  bool is_dict() const { return is<std::shared_ptr<const Dict>>(); }
  bool is_object() const { return is<std::shared_ptr<Object>>(); }

  // Each needs the kind it names.
  const std::string& why() const { return *std::get<Undefined>(data_).why; }
  int64_t integer() const;  // of an int or a bool
  double number() const;    // of any number
  const std::string& string() const { return *std::get<Shared>(data_); }
  const List& items() const { return *std::get<Sequence>(data_).items; }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  const std::shared_ptr<Object>& object() const { return std::get<std::shared_ptr<Object>>(data_); }

  bool truthy() const;
  std::string type_name() const;  // Python's: "str", "list"
  int depth() const;              // 0 for what contains nothing
  // Same object, as Python's `is` would answer for values that are not small numbers.
  bool same_as(const Value& other) const;

 private:
  using Shared = std::shared_ptr<const std::string>;
  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  static Value sequence(List items, bool is_tuple);

  std::variant<None, Undefined, bool, int64_t, double, Shared, Sequence,
               std::shared_ptr<const Dict>, std::shared_ptr<Object>>
      data_;
};

// In order of insertion. Keys are compared as Python compares them: 1, 1.0 and True are one key.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  const Value* find(const Value& key, Budget& budget) const;  // nullptr if absent
  const Value* find(std::string_view key) const;
  void set(Value key, Value value, Budget& budget);
  int depth() const { return depth_; }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;  // hash_key() to the position in entries_
  int depth_ = 1;
};

// What has identity and behaviour: namespaces, macros, functions, bound methods, `loop`.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string type_name() const = 0;
  virtual bool callable() const { return false; }
  virtual std::optional<Value> attribute(const std::string& name);
  virtual Value call(Interpreter& interpreter, const Arguments& arguments);
};

// Text that two values share exactly when Python says that they are one key; a Failure for what
// cannot be a key (lists, dicts).
std::string hash_key(const Value& value, Budget& budget);

bool equal(const Value& a, const Value& b, Budget& budget);
// Negative, 0, positive; a Failure for what Python does not order.
int compare(const Value& a, const Value& b, Budget& budget);

// The elements that a for loop sees: of lists, characters of strings, keys of dicts.
List iterate(const Value& value, Budget& budget);

// ---- value_print.cc
void append_str(Text& out, const Value& value);   // str()
void append_repr(Text& out, const Value& value);  // repr()
std::string str(const Value& value, Budget& budget);
std::string repr(const Value& value, Budget& budget);
std::string float_repr(double value);

struct JsonStyle {
  std::optional<std::string> indent;
  std::string item_separator = ", ", key_separator = ": ";
  bool ensure_ascii = false, sort_keys = false;
};
void append_json(Text& out, const Value& value, const JsonStyle& style, int level = 0);

}  // namespace weft::formats::jinja
