// Directed Hamiltonian rings that share no link: the complete digraph on n ranks falls into n - 1
// of them for every n but 4 and 6 (Tillson 1980). TASP (arXiv 2509.26541, §3) sends one piece round
// each at the same time, so that all n (n - 1) links work in every step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace weft::parallel::tasp {

using Ring = std::vector<uint16_t>;  // each rank once, in the order of travel

// n - 1 rings, proven to share no link before they are given out. kUnsupported for n = 4 and 6 (use
// hops()), and for an even n beyond the table for which the search finds none.
std::vector<Ring> rings(size_t num_ranks);

// m Hamiltonian paths of the complete digraph on m devices that share no link, each device once the
// beginning and once the end of one: the inside of a node, where a path goes on to the next node.
// kUnsupported for 3 and 5, for which there are none.
std::vector<Ring> paths(size_t num_devices);

// For n = 4 and 6: where the holder of piece c sends it in each step, as (steps, pieces, ranks). No
// piece keeps to one ring, but each step still uses every link once.
std::vector<std::vector<Ring>> hops(size_t num_ranks);

// What made the table of even n >= 8: tries cuts of a circulant walk, into 3 ... max_runs (<= 8)
// runs, until a rainbow path comes out.
struct RainbowCuts {
  size_t stride;
  std::vector<size_t> cuts, order;
};
std::optional<RainbowCuts> find_rainbow_cuts(size_t num_ranks, size_t max_runs);

}  // namespace weft::parallel::tasp
