// What the tuner must know, measured where it will be used: the collective while the cores compute
// and message follows message (alone and one at a time, limiters and buffers let a small message
// through for nothing: a curve taken so foretold a third of the time), and the product while
// messages pass.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "parallel/flash_overlap/overlap.h"
#include "parallel/flash_overlap/tuner.h"

namespace weft::parallel::flash_overlap {

enum class Collective : uint8_t { kAllReduce, kReduceScatter };

// Tiles as the product without overlap takes them, for `cores` cores.
TileGrid preferred_grid(const kernels::Linear& weight, size_t num_rows, size_t cores);

// Bytes in the tiles before each position of an order, as the tuner takes them; tiles + 1 of them.
std::vector<double> bytes_before(const TileGrid& grid, std::span<const uint32_t> order);

// All ranks call it together and get the same model: of every figure the slowest rank's. Takes some
// ten times what the product and its collective take.
LatencyModel measure(const OverlapCall& call, const TileGrid& grid, Collective collective,
                     const CoreSet& cores);

// Of the whole product's values, while nothing is computed; the slowest rank's, all ranks together.
double measure_collective(const OverlapCall& call, const TileGrid& grid, Collective collective);

// Of every entry the largest that any rank has.
void take_largest(const OverlapCall& call, std::span<double> values);

// A plan with given groups for either collective.
Plan make_plan(const TileGrid& grid, Collective collective, std::vector<size_t> group_ends,
               size_t num_ranks);

}  // namespace weft::parallel::flash_overlap
