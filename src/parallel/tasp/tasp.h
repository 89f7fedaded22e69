// TASP: topology-aware sequence parallelism (arXiv 2509.26541), the exchange of keys and values.
// Each rank's block is cut into n - 1 pieces and piece c goes round ring c of a decomposition of
// the complete digraph into Hamiltonian rings: all links work in every step, each with 1 / (n - 1)
// of what Ring Attention sends over one.
#pragma once

#include <cstddef>

#include "parallel/exchange.h"

namespace weft::parallel::tasp {

// n - 1 pieces, n - 1 steps; every directed link carries exactly one piece in each step. For every
// n from 1 up (kUnsupported: an even n beyond 66 for which no rings were found).
Exchange full_mesh_exchange(size_t num_ranks);

// Several nodes, one network port for each device (§3.5 of the paper: (m - K_m - m)^u): m pieces,
// each goes along a path inside a node and then over one network hop to the next. In each step each
// link inside a node carries one piece at most, and each network port sends and receives one. Nodes
// are labelled so that those hops join devices of the same number where that can be. kUnsupported
// for 3 or 5 devices.
Exchange nodes_exchange(size_t num_nodes, size_t devices);

}  // namespace weft::parallel::tasp
