// Which tokens of a long sequence a rank owns, and what it computes with a piece of another's.
// Contiguous: rank r owns the r-th of n stretches. Zigzag (for causal attention): the r-th and the
// r-th from the end of 2n stretches, so that all ranks have equally many keys to attend to. Nothing
// need divide anything: stretches and pieces differ by a token at most.
#pragma once

#include <cstddef>

namespace weft::parallel {

struct TokenRange {
  size_t begin = 0, end = 0;
  size_t size() const { return end - begin; }
};

// The i-th of k parts of a range.
inline TokenRange part(TokenRange whole, size_t k, size_t i) {
  return {whole.begin + whole.size() * i / k, whole.begin + whole.size() * (i + 1) / k};
}

struct Placement {
  size_t num_tokens = 0, num_ranks = 1, num_pieces = 1;
  bool causal = false, zigzag = false;

  TokenRange front(size_t rank) const {
    return part({0, num_tokens}, zigzag ? 2 * num_ranks : num_ranks, rank);
  }
  TokenRange back(size_t rank) const {  // empty where the placement is contiguous
    return zigzag ? part({0, num_tokens}, 2 * num_ranks, 2 * num_ranks - 1 - rank)
                  : TokenRange{num_tokens, num_tokens};
  }
  TokenRange piece_front(size_t rank, size_t piece) const {
    return part(front(rank), num_pieces, piece);
  }
  TokenRange piece_back(size_t rank, size_t piece) const {
    return part(back(rank), num_pieces, piece);
  }
  size_t tokens(size_t rank) const { return front(rank).size() + back(rank).size(); }
  size_t piece_tokens(size_t rank, size_t piece) const {
    return piece_front(rank, piece).size() + piece_back(rank, piece).size();
  }

  // Pairs of a query of `rank` and a key of the piece that it attends to; `source` may be the rank
  // itself.
  size_t scores(size_t rank, size_t source, size_t piece) const;
};

}  // namespace weft::parallel
