#include "text/grammar/char_set.h"

#include <algorithm>
#include <utility>

namespace weft::text::grammar {

CharSet::CharSet(std::vector<CharRange> ranges) {
  std::vector<CharRange> parts;
  const auto add = [&](char32_t first, char32_t last) {
    if (first <= last) parts.push_back({first, last});
  };
  for (const CharRange& r : ranges) {
    add(r.first, std::min<char32_t>(r.last, kFirstSurrogate - 1));
    add(std::max<char32_t>(r.first, kLastSurrogate + 1), std::min(r.last, kLastChar));
  }
  std::sort(parts.begin(), parts.end(),
            [](const CharRange& a, const CharRange& b) { return a.first < b.first; });
  for (const CharRange& r : parts) {
    if (!ranges_.empty() && r.first <= ranges_.back().last + 1)
      ranges_.back().last = std::max(ranges_.back().last, r.last);
    else
      ranges_.push_back(r);
  }
}

bool CharSet::intersects(char32_t first, char32_t last) const {
  const auto it = std::partition_point(ranges_.begin(), ranges_.end(),
                                       [first](const CharRange& r) { return r.last < first; });
  return it != ranges_.end() && it->first <= last;
}

CharSet CharSet::complement() const {
  std::vector<CharRange> out;
  char32_t next = 0;
  for (const CharRange& r : ranges_) {
    if (r.first > next) out.push_back({next, r.first - 1});
    next = r.last + 1;
  }
  if (next <= kLastChar) out.push_back({next, kLastChar});
  return CharSet(std::move(out));
}

CharSet CharSet::minus(const CharSet& other) const {
  // What is neither outside of this one nor in the other.
  std::vector<CharRange> out(other.ranges_);
  const CharSet outside = complement();
  out.insert(out.end(), outside.ranges_.begin(), outside.ranges_.end());
  return CharSet(std::move(out)).complement();
}

}  // namespace weft::text::grammar
