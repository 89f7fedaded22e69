// A set of characters (Unicode scalar values: surrogates are none), as sorted ranges.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace weft::text::grammar {

struct CharRange {
  char32_t first, last;  // both included
  bool operator==(const CharRange&) const = default;
};

inline constexpr char32_t kLastChar = 0x10FFFF, kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

class CharSet {
 public:
  CharSet() = default;
  CharSet(std::vector<CharRange> ranges);  // in any order; what is no character is left out
  static CharSet single(char32_t c) { return CharSet({{c, c}}); }
  static CharSet any() { return CharSet({{0, kLastChar}}); }

  bool empty() const { return ranges_.empty(); }
  bool contains(char32_t c) const { return intersects(c, c); }
  bool intersects(char32_t first, char32_t last) const;
  CharSet complement() const;
  CharSet minus(const CharSet& other) const;
  std::span<const CharRange> ranges() const { return ranges_; }

  bool operator==(const CharSet&) const = default;

 private:
  std::vector<CharRange> ranges_;  // sorted, apart from each other
};

}  // namespace weft::text::grammar
