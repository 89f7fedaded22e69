// `--exchange auto`: the exchanges' transfers run once on the real links, and the quickest is taken. What
// a table of links would have to tell apart (a link for each pair, or one port that all share; what the
// network's stack does to many messages at once), this simply sees.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "comm/communicator.h"
#include "parallel/exchange_named.h"

namespace weft::parallel {

// Seconds until the slowest rank has all blocks of `block_bytes`, passed round as the exchange says,
// with nothing else to do. All ranks together, the same result on all.
double transfer_s(const comm::Communicator& ranks, const Exchange& exchange, size_t block_bytes);

// The first of those that take at most 5 % longer than the quickest: put those with fewer messages
// first. All ranks together, the same result on all.
size_t quickest(const comm::Communicator& ranks, std::span<const NamedExchange> exchanges);

}  // namespace weft::parallel
