// Filters, tests, methods and global functions, by name.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "formats/jinja/objects.h"

namespace weft::formats::jinja {

// nullptr if there is none of that name.
Builtin find_filter(const std::string& name);
Builtin find_sequence_filter(const std::string& name);  // those over lists; find_filter asks it
Builtin find_test(const std::string& name);             // answers with a bool
Builtin find_function(const std::string& name);
// The method `name` of a str, list, tuple or dict. Python's other methods of those types are there
// too, and fail when called: the ones that mutate as the sandbox refuses them, the rest as
// unsupported.
Builtin find_method(const Value& self, const std::string& name);

// The arguments of a built-in, by position or by name.
class Bound {
 public:
  // Refuses more arguments than `names`, unknown names, and arguments given twice.
  Bound(const Arguments& arguments, std::initializer_list<const char*> names);

  const Value* get(size_t index) const { return values_[index]; }  // nullptr if not given
  const Value& need(size_t index) const;
  bool flag(size_t index, bool fallback = false) const;
  int64_t integer(size_t index, int64_t fallback) const;
  // nullptr also for None.
  const Value* given(size_t index) const;

 private:
  std::vector<const char*> names_;
  std::vector<const Value*> values_;
};

// Reads "a.b.0" of a value, as the attribute= arguments of filters do.
Value dotted(Interpreter& interpreter, const Value& value, const Value& path);

}  // namespace weft::formats::jinja
