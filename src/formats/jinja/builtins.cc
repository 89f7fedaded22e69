#include "formats/jinja/builtins.h"

#include <algorithm>

#include "formats/jinja/strings.h"

namespace weft::formats::jinja {

Bound::Bound(const Arguments& arguments, std::initializer_list<const char*> names)
    : names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    refuse("takes at most {} argument(s), {} given", names.size(), arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto place = std::find(names_.begin(), names_.end(), name);
    if (place == names_.end()) refuse("got an unexpected keyword argument '{}'", name);
    const Value*& slot = values_[static_cast<size_t>(place - names_.begin())];
    if (slot != nullptr) refuse("got multiple values for argument '{}'", name);
    slot = &value;
  }
}

const Value& Bound::need(size_t index) const {
  if (values_[index] == nullptr) refuse("missing argument '{}'", names_[index]);
  return *values_[index];
}

bool Bound::flag(size_t index, bool fallback) const {
  return values_[index] == nullptr ? fallback : values_[index]->truthy();
}

int64_t Bound::integer(size_t index, int64_t fallback) const {
  const Value* value = values_[index];
  if (value == nullptr) return fallback;
  if (!value->is_integral()) {
    refuse("argument '{}' must be an integer, not {}", names_[index], value->type_name());
  }
  return value->integer();
}

const Value* Bound::given(size_t index) const {
  const Value* value = values_[index];
  return value == nullptr || value->is_none() ? nullptr : value;
}

Value dotted(Interpreter& interpreter, const Value& value, const Value& path) {
  if (path.is_integral()) return interpreter.item(value, path);
  if (!path.is_string()) refuse("attribute must be a string or an integer");
  Value out = value;
  for (std::string_view part : split(path.string(), ".", -1, false)) {
    const bool is_index =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    out = interpreter.item(out,
                           is_index ? Value(int64_t{std::stoi(std::string(part))}) : Value(part));
  }
  return out;
}

}  // namespace weft::formats::jinja
