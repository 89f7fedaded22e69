// How ranks that share a long sequence pass their keys and values round, so that in the end every
// rank has seen those of all others. An exchange is a table: which piece goes from whom to whom in
// which step. Ring Attention, TASP and their relatives are tables of one type, which one executor
// can run, one check proves and one model prices.
//
// Each rank's keys and values are cut into `num_pieces` pieces. A rank may send, in each step, any
// of its own pieces and those that came in the step before: two working buffers are enough, and
// what was passed on is gone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weft::parallel {

struct Transfer {
  uint16_t from = 0, to = 0;
  uint16_t source = 0, piece = 0;  // piece `piece` of the rank that the tokens belong to
};

struct Exchange {
  std::string name;
  size_t num_ranks = 1, num_pieces = 1;
  std::vector<std::vector<Transfer>> steps;  // all transfers of a step run at once
};

// Empty, or the first rule that the table breaks, with the ranks, step and piece: a transfer of a
// rank to itself or of what it does not hold, a piece that comes twice or never.
std::string fault_of(const Exchange& exchange);
// Empty, or which of the n (n - 1) directed links a step uses not exactly once.
std::string unbalanced_link_of(const Exchange& exchange);

// Ring Attention (arXiv 2310.01889): whole blocks to the next rank, n - 1 times.
Exchange ring_exchange(size_t num_ranks);
// Each step, every rank sends one of its own n - 1 pieces to all others. The same bytes on every
// link as TASP and nothing is forwarded; what it lacks is a way to share a narrow port.
Exchange direct_exchange(size_t num_ranks);

}  // namespace weft::parallel
