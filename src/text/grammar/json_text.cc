#include "text/grammar/json_text.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::text::grammar {
namespace {

constexpr uint64_t kMostNatural = 999'999'999'999'999'999;  // 18 digits
constexpr size_t kMostDigits = 18;

const CharSet& digit() {
  static const CharSet set({{'0', '9'}});
  return set;
}

CharSet digits_from(char first, char last) {
  return CharSet({{static_cast<char32_t>(first), static_cast<char32_t>(last)}});
}

// What may stand in a string as it is.
const CharSet& plain() {
  static const CharSet set = CharSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).complement();
  return set;
}

}  // namespace

Symbol JsonText::space() {
  if (!space_) {
    const Symbol blanks =
        builder_.repeat(builder_.chars(CharSet({{' ', ' '}, {'\t', '\t'}})), 0, 20);
    space_ = builder_.declare("space");
    builder_.add_alternative(*space_, {});
    builder_.add_alternative(*space_, {text(" ")});
    builder_.add_alternative(*space_, {text("\n"), blanks});
  }
  return *space_;
}

Symbol JsonText::value() {
  if (!value_) {
    value_ = builder_.declare("value");  // before the parts, which refer to it
    for (const Symbol choice : {object(), array(), string(0, std::nullopt), number(), text("true"),
                                text("false"), text("null")})
      builder_.add_alternative(*value_, {choice});
  }
  return *value_;
}

Symbol JsonText::object() {
  if (!object_) {
    object_ = builder_.declare("object");
    const Symbol members = object_of({}, Member{string(0, std::nullopt), value(), false});
    builder_.add_alternative(*object_, {members});
  }
  return *object_;
}

Symbol JsonText::array() {
  if (!array_) {
    array_ = builder_.declare("array");
    const Symbol items = array_of({}, value(), 0, std::nullopt);
    builder_.add_alternative(*array_, {items});
  }
  return *array_;
}

Symbol JsonText::integer() {
  if (!integer_) {
    const Symbol natural = builder_.one_of(
        {text("0"),
         builder_.sequence({builder_.chars(digits_from('1', '9')),
                            builder_.repeat(builder_.chars(digit()), 0, kMostDigits - 1)})});
    integer_ = builder_.sequence({builder_.optional(text("-")), natural});
  }
  return *integer_;
}

// Digits are bounded, so that a number ends and fits into a double.
Symbol JsonText::number() {
  if (!number_) {
    const Symbol some = builder_.chars(digit());
    const Symbol fraction = builder_.sequence({text("."), builder_.repeat(some, 1, 16)});
    const Symbol exponent =
        builder_.sequence({builder_.chars(CharSet({{'e', 'e'}, {'E', 'E'}})),
                           builder_.optional(builder_.chars(CharSet({{'+', '+'}, {'-', '-'}}))),
                           builder_.repeat(some, 1, 2)});
    number_ =
        builder_.sequence({integer(), builder_.optional(fraction), builder_.optional(exponent)});
  }
  return *number_;
}

Symbol JsonText::digits(size_t count) {
  return builder_.repeat(builder_.chars(digit()), count, count);
}

// Both of the same length, least <= most.
Symbol JsonText::digits_between(const std::string& least, const std::string& most) {
  if (least.empty()) return builder_.sequence({});
  const char low = least[0], high = most[0];
  const std::string rest_low = least.substr(1), rest_high = most.substr(1);
  const auto chars = [&](char first, char last) {
    return builder_.chars(digits_from(first, last));
  };
  if (low == high) return builder_.sequence({chars(low, low), digits_between(rest_low, rest_high)});
  const Symbol out = builder_.declare();
  char first = low, last = high;  // leading digits that any digits may follow
  if (rest_low.find_first_not_of('0') != std::string::npos) {
    const std::string nines(rest_low.size(), '9');
    builder_.add_alternative(out, {chars(low, low), digits_between(rest_low, nines)});
    ++first;
  }
  if (rest_high.find_first_not_of('9') != std::string::npos) {
    const std::string zeros(rest_high.size(), '0');
    builder_.add_alternative(out, {chars(high, high), digits_between(zeros, rest_high)});
    --last;
  }
  if (first <= last) builder_.add_alternative(out, {chars(first, last), digits(rest_low.size())});
  return out;
}

Symbol JsonText::naturals_between(uint64_t least, uint64_t most) {
  const Symbol out = builder_.declare();
  uint64_t first = 0;  // of the numbers with as many digits
  for (uint64_t end = 10; first <= most; first = end, end *= 10) {
    const uint64_t low = std::max(least, first), high = std::min(most, end - 1);
    if (low <= high)
      builder_.add_alternative(out, {digits_between(std::to_string(low), std::to_string(high))});
  }
  return out;
}

Symbol JsonText::integer_between(int64_t least, int64_t most) {
  constexpr auto kMost = static_cast<int64_t>(kMostNatural);
  least = std::clamp(least, -kMost, kMost);
  most = std::clamp(most, -kMost, kMost);
  const Symbol out = builder_.declare();
  if (least > most) return out;
  if (least < 0) {
    const auto low = static_cast<uint64_t>(std::max<int64_t>(1, -most));
    builder_.add_alternative(out,
                             {text("-"), naturals_between(low, static_cast<uint64_t>(-least))});
  }
  if (most >= 0)
    builder_.add_alternative(out,
                             {naturals_between(static_cast<uint64_t>(std::max<int64_t>(0, least)),
                                               static_cast<uint64_t>(most))});
  return out;
}

Symbol JsonText::quoted(Symbol inside) {
  return builder_.sequence({text("\""), inside, text("\"")});
}

Symbol JsonText::string_char() {
  if (!string_char_) {
    const Symbol hex = builder_.chars(CharSet({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}));
    const Symbol d = builder_.chars(CharSet({{'d', 'd'}, {'D', 'D'}}));
    const Symbol not_d =
        builder_.chars(CharSet({{'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}}));
    string_char_ = builder_.declare("string character");
    const Symbol backslash = text("\\");
    builder_.add_alternative(*string_char_, {builder_.chars(plain())});
    std::vector<CharRange> escapes;
    for (const char c : std::string_view("\"\\/bfnrt"))
      escapes.push_back({static_cast<char32_t>(c), static_cast<char32_t>(c)});
    builder_.add_alternative(*string_char_, {backslash, builder_.chars(CharSet(escapes))});
    // No surrogates: half of a pair would be no text.
    builder_.add_alternative(*string_char_, {backslash, text("u"), not_d, hex, hex, hex});
    builder_.add_alternative(
        *string_char_, {backslash, text("u"), d, builder_.chars(digits_from('0', '7')), hex, hex});
  }
  return *string_char_;
}

Symbol JsonText::string(size_t min_length, std::optional<size_t> max_length) {
  return quoted(builder_.repeat(string_char(), min_length, max_length));
}

Symbol JsonText::char_in_string(const CharSet& set) {
  static constexpr std::pair<char32_t, const char*> kEscapes[] = {
      {'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"},
      {'\n', "\\n"}, {'\r', "\\r"},  {'\t', "\\t"}};
  std::vector<Symbol> choices;
  CharSet unescaped = set.minus(plain().complement());
  if (!unescaped.empty()) choices.push_back(builder_.chars(std::move(unescaped)));
  for (const auto& [c, escape] : kEscapes)
    if (set.contains(c)) choices.push_back(text(escape));
  return choices.empty() ? builder_.declare() : builder_.one_of(choices);
}

// A trie of the keys; a key leaves it at some character, or ends where none of them does.
Symbol JsonText::key_except(const std::vector<std::string>& keys) {
  struct Node {
    Symbol rule;
    std::map<char32_t, size_t> children;
    bool is_key = false;
  };
  std::vector<Node> nodes = {{builder_.declare(), {}, false}};
  for (const std::string& key : keys) {
    size_t node = 0;
    for (size_t at = 0; at < key.size();) {
      const formats::Utf8Unit unit = formats::read_utf8(key, at);
      at += unit.length;
      const auto [child, is_new] = nodes[node].children.try_emplace(unit.code, nodes.size());
      const size_t next = child->second;
      if (is_new) nodes.push_back({builder_.declare(), {}, false});
      node = next;
    }
    nodes[node].is_key = true;
  }
  const Symbol anything = builder_.repeat(builder_.chars(plain()), 0, std::nullopt);
  for (const Node& node : nodes) {
    std::vector<CharRange> taken;
    for (const auto& [c, child] : node.children) {
      taken.push_back({c, c});
      if (plain().contains(c))
        builder_.add_alternative(node.rule,
                                 {builder_.chars(CharSet::single(c)), nodes[child].rule});
    }
    builder_.add_alternative(node.rule,
                             {builder_.chars(plain().minus(CharSet(std::move(taken)))), anything});
    if (!node.is_key) builder_.add_alternative(node.rule, {});
  }
  return quoted(nodes[0].rule);
}

// ("," item) so many times.
Symbol JsonText::list_tail(Symbol item, size_t min, std::optional<size_t> max) {
  return builder_.repeat(builder_.sequence({text(","), space(), item}), min, max);
}

Symbol JsonText::array_of(const std::vector<Symbol>& first, std::optional<Symbol> rest,
                          size_t min_items, std::optional<size_t> max_items) {
  const auto or_none = [](size_t count, size_t taken) { return count - std::min(count, taken); };
  const size_t num_first = std::min(first.size(), max_items.value_or(SIZE_MAX));
  // From the back: what follows item i - 1, and whether that may be nothing.
  const auto may_stop = [&](size_t i) { return i >= min_items; };
  Symbol tail = builder_.declare();
  if (rest && (!max_items || *max_items > num_first)) {
    const auto most = [&](size_t taken) -> std::optional<size_t> {
      if (!max_items) return std::nullopt;
      return or_none(*max_items, taken);
    };
    if (num_first != 0) {
      builder_.add_alternative(tail,
                               {list_tail(*rest, or_none(min_items, num_first), most(num_first))});
    } else {
      builder_.add_alternative(tail, {*rest, list_tail(*rest, or_none(min_items, 1), most(1))});
      if (may_stop(0)) builder_.add_alternative(tail, {});
    }
  } else if (may_stop(num_first)) {
    builder_.add_alternative(tail, {});
  }
  for (size_t i = num_first; i-- > 0;) {
    const Symbol from_here = builder_.declare();
    if (i == 0)
      builder_.add_alternative(from_here, {first[i], tail});
    else
      builder_.add_alternative(from_here, {text(","), space(), first[i], tail});
    if (may_stop(i)) builder_.add_alternative(from_here, {});
    tail = from_here;
  }
  return builder_.sequence({text("["), space(), tail, space(), text("]")});
}

Symbol JsonText::object_of(const std::vector<Member>& members, std::optional<Member> more) {
  const auto pair = [&](const Member& m) {
    return builder_.sequence({m.key, text(":"), space(), m.value});
  };
  // What may follow member i - 1: at the beginning of the object, and after another member.
  Symbol beginning = builder_.declare(), after = builder_.declare();
  builder_.add_alternative(beginning, {});
  builder_.add_alternative(after, {});
  if (more) {
    const Symbol extra = pair(*more);
    const Symbol tail = list_tail(extra, 0, std::nullopt);
    builder_.add_alternative(beginning, {extra, tail});
    after = tail;
  }
  for (size_t i = members.size(); i-- > 0;) {
    const Symbol here = pair(members[i]);
    const Symbol first = builder_.declare(), later = builder_.declare();
    builder_.add_alternative(first, {here, after});
    builder_.add_alternative(later, {text(","), space(), here, after});
    if (!members[i].required) {
      builder_.add_alternative(first, {beginning});
      builder_.add_alternative(later, {after});
    }
    beginning = first;
    after = later;
  }
  return builder_.sequence({text("{"), space(), beginning, space(), text("}")});
}

}  // namespace weft::text::grammar
