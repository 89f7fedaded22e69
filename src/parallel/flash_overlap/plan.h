// FlashOverlap (EuroSys '26, arXiv 2504.19519): where the tiles of a product go, so that groups of
// them can be sent while later ones are still being computed.
//
// The output (rows, columns) is cut into a grid of tiles, which are computed in one fixed order on
// every rank. A group is a run of tiles in that order. The product writes each tile's rows into the
// send buffer in the order of sending (§3.2); what reads the result afterwards, reads through the
// same map (§3.3): neither needs a copy of its own.
//
// Buffer: groups one after the other; in a group, destination after destination; for a destination,
// the group's tiles in order; of a tile, those rows that go there, in order, as wide as the tile.
//   all-reduce       one destination for all rows: a tile is contiguous
//   reduce-scatter   rank k owns the k-th part of each tile's rows, so rows stay whole (block
//   owners) all-to-all       any destination for each row (expert parallel)
//
// Immutable once made; thread-safe. Offsets and sizes are in values, not bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weft::parallel::flash_overlap {

struct Tile {
  size_t first_row = 0, num_rows = 0;
  size_t first_column = 0, num_columns = 0;
};

// Bands of tile_rows rows times panels of tile_columns columns; the last of each may be smaller.
struct TileGrid {
  size_t rows = 0, columns = 0;
  size_t tile_rows = 1, tile_columns = 1;

  size_t num_bands() const { return (rows + tile_rows - 1) / tile_rows; }
  size_t num_panels() const { return (columns + tile_columns - 1) / tile_columns; }
  size_t num_tiles() const { return num_bands() * num_panels(); }
  Tile tile(size_t band, size_t panel) const;
};

// Tile band * num_panels + panel at each position: band after band, so that the rows of x stay in
// the cache while the weights' panels pass, as in the product without overlap.
std::vector<uint32_t> band_order(const TileGrid& grid);

// Destinations of all rows for a reduce-scatter; a band's first ranks own a row more where its rows
// do not divide.
std::vector<uint32_t> block_owners(const TileGrid& grid, size_t num_ranks);

struct Segment {
  size_t offset = 0, size = 0;
};

class Plan {
 public:
  // `order` is a permutation of the grid's tiles; `group_ends` are positions in it, never falling
  // (a group may be empty), the last = the number of tiles. All destinations are <
  // num_destinations. Ours to get right: asserted.
  Plan(const TileGrid& grid, std::vector<uint32_t> order, std::vector<size_t> group_ends,
       std::vector<uint32_t> destinations, size_t num_destinations);
  static Plan all_reduce(const TileGrid& grid, std::vector<uint32_t> order,
                         std::vector<size_t> group_ends);

  const TileGrid& grid() const { return grid_; }
  size_t num_tiles() const { return order_.size(); }
  size_t num_groups() const { return group_ends_.size(); }
  size_t num_destinations() const { return num_destinations_; }
  std::span<const size_t> group_ends() const { return group_ends_; }
  size_t size() const { return grid_.rows * grid_.columns; }

  Tile tile(size_t position) const;
  size_t group_of(size_t position) const { return group_of_[position]; }
  size_t tiles_in(size_t group) const;

  // Where row `row` (of the output, within the tile's rows) of the tile at `position` lies.
  size_t offset(size_t position, size_t row) const;
  // Of the columns of `panel` in row `row`: the reader's question.
  size_t offset_in_panel(size_t row, size_t panel) const {
    return offset(position_of(row / grid_.tile_rows, panel), row);
  }
  bool tiles_are_contiguous() const { return num_destinations_ == 1; }
  size_t destination(size_t row) const { return destinations_[row]; }
  Segment segment(size_t group) const;                      // all destinations
  Segment segment(size_t group, size_t destination) const;  // contiguous too

  size_t position_of(size_t band, size_t panel) const {
    return position_[band * grid_.num_panels() + panel];
  }

  // Of everything that ranks must agree on; two plans with one hash move the same values.
  uint64_t hash() const;

 private:
  size_t& base(size_t position, size_t destination) {
    return bases_[position * num_destinations_ + destination];
  }
  size_t base(size_t position, size_t destination) const {
    return bases_[position * num_destinations_ + destination];
  }

  TileGrid grid_;
  std::vector<uint32_t> order_, position_;  // tile at a position, position of a tile
  std::vector<size_t> group_ends_;
  std::vector<uint32_t> group_of_;      // (position)
  std::vector<uint32_t> destinations_;  // (row)
  size_t num_destinations_;
  std::vector<uint32_t> row_in_tile_;  // (row): how many rows above it in its band go where it goes
  std::vector<size_t> bases_;          // (position, destination): of the tile's first row for it
  std::vector<size_t> starts_;         // (group, destination), and the end of all
};

// What comes to one rank in an all-to-all: group after group, in a group source after source, of a
// source what its plan has for this rank. Every rank knows every source's plan (dispatch has told
// it where all rows go); all have the same number of groups.
class Inbox {
 public:
  Inbox(std::span<const Plan> sources, size_t destination);

  size_t size() const { return begins_.back().back(); }
  // Where in the buffer the parts of the sources begin, and the end of the last.
  std::span<const size_t> begins(size_t group) const { return begins_[group]; }
  // Of the columns of `panel` in row `row` of `source`, a row that comes here.
  size_t offset_in_panel(const Plan& plan, size_t source, size_t row, size_t panel) const;

 private:
  size_t destination_;
  std::vector<std::vector<size_t>> begins_;
};

}  // namespace weft::parallel::flash_overlap
