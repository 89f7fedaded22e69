#include "parallel/placement.h"

#include <algorithm>

namespace weft::parallel {
namespace {

// Pairs (query, key) of two ranges with key <= query.
size_t causal_pairs(TokenRange queries, TokenRange keys) {
  if (queries.size() == 0 || keys.size() == 0 || keys.begin >= queries.end) return 0;
  // Queries before `keys` see none of them, those behind all, and those within a triangle.
  const size_t behind = queries.end - std::max(queries.begin, std::min(keys.end, queries.end));
  const TokenRange within{std::max(queries.begin, keys.begin), std::min(queries.end, keys.end)};
  size_t pairs = behind * keys.size();
  if (within.begin < within.end) {
    const size_t first = within.begin - keys.begin + 1, last = within.end - keys.begin;
    pairs += (first + last) * within.size() / 2;
  }
  return pairs;
}

}  // namespace

size_t Placement::scores(size_t rank, size_t source, size_t piece) const {
  if (!causal) return tokens(rank) * piece_tokens(source, piece);
  size_t pairs = 0;
  for (const TokenRange queries : {front(rank), back(rank)})
    for (const TokenRange keys : {piece_front(source, piece), piece_back(source, piece)})
      pairs += causal_pairs(queries, keys);
  return pairs;
}

}  // namespace weft::parallel
