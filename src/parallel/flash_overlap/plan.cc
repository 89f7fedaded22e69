#include "parallel/flash_overlap/plan.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace weft::parallel::flash_overlap {

Tile TileGrid::tile(size_t band, size_t panel) const {
  const size_t first_row = band * tile_rows, first_column = panel * tile_columns;
  return {first_row, std::min(tile_rows, rows - first_row), first_column,
          std::min(tile_columns, columns - first_column)};
}

std::vector<uint32_t> band_order(const TileGrid& grid) {
  std::vector<uint32_t> order(grid.num_tiles());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  return order;
}

std::vector<uint32_t> block_owners(const TileGrid& grid, size_t num_ranks) {
  std::vector<uint32_t> owners(grid.rows);
  for (size_t band = 0; band < grid.num_bands(); ++band) {
    const Tile tile = grid.tile(band, 0);
    const size_t share = tile.num_rows / num_ranks, with_one_more = tile.num_rows % num_ranks;
    size_t row = tile.first_row;
    for (size_t rank = 0; rank < num_ranks; ++rank)
      for (size_t i = 0; i < share + (rank < with_one_more ? 1 : 0); ++i)
        owners[row++] = static_cast<uint32_t>(rank);
  }
  return owners;
}

Plan Plan::all_reduce(const TileGrid& grid, std::vector<uint32_t> order,
                      std::vector<size_t> group_ends) {
  return Plan(grid, std::move(order), std::move(group_ends), std::vector<uint32_t>(grid.rows, 0),
              1);
}

Plan::Plan(const TileGrid& grid, std::vector<uint32_t> order, std::vector<size_t> group_ends,
           std::vector<uint32_t> destinations, size_t num_destinations)
    : grid_(grid),
      order_(std::move(order)),
      position_(order_.size(), UINT32_MAX),
      group_ends_(std::move(group_ends)),
      group_of_(order_.size()),
      destinations_(std::move(destinations)),
      num_destinations_(num_destinations),
      row_in_tile_(grid.rows),
      bases_(order_.size() * num_destinations),
      starts_(group_ends_.size() * num_destinations + 1) {
  WEFT_ASSERT(order_.size() == grid.num_tiles() && !order_.empty());
  WEFT_ASSERT(!group_ends_.empty() && group_ends_.back() == order_.size());
  WEFT_ASSERT(destinations_.size() == grid.rows);
  for (size_t p = 0; p < order_.size(); ++p) {
    WEFT_ASSERT(order_[p] < order_.size() && position_[order_[p]] == UINT32_MAX);
    position_[order_[p]] = static_cast<uint32_t>(p);
  }

  const size_t n = num_destinations_;
  std::vector<size_t> rows_for(grid.num_bands() * n);  // (band, destination)
  for (size_t row = 0; row < grid.rows; ++row) {
    WEFT_ASSERT(destinations_[row] < n);
    row_in_tile_[row] =
        static_cast<uint32_t>(rows_for[row / grid.tile_rows * n + destinations_[row]]++);
  }

  size_t offset = 0, begin = 0;
  for (size_t g = 0; g < group_ends_.size(); ++g) {
    WEFT_ASSERT(group_ends_[g] >= begin);
    for (size_t d = 0; d < n; ++d) {
      starts_[g * n + d] = offset;
      for (size_t p = begin; p < group_ends_[g]; ++p) {
        group_of_[p] = static_cast<uint32_t>(g);
        base(p, d) = offset;
        offset += rows_for[order_[p] / grid.num_panels() * n + d] * tile(p).num_columns;
      }
    }
    begin = group_ends_[g];
  }
  starts_.back() = offset;
  WEFT_ASSERT(offset == size());
}

Tile Plan::tile(size_t position) const {
  return grid_.tile(order_[position] / grid_.num_panels(), order_[position] % grid_.num_panels());
}

size_t Plan::tiles_in(size_t group) const {
  return group_ends_[group] - (group == 0 ? 0 : group_ends_[group - 1]);
}

size_t Plan::offset(size_t position, size_t row) const {
  return base(position, destinations_[row]) + row_in_tile_[row] * tile(position).num_columns;
}

Segment Plan::segment(size_t group) const {
  const size_t first = starts_[group * num_destinations_];
  return {first, starts_[(group + 1) * num_destinations_] - first};
}

Segment Plan::segment(size_t group, size_t destination) const {
  const size_t i = group * num_destinations_ + destination;
  return {starts_[i], starts_[i + 1] - starts_[i]};
}

uint64_t Plan::hash() const {
  uint64_t h = 0xcbf29ce484222325;  // FNV-1a, a 64-bit value at a time
  const auto mix = [&](uint64_t value) { h = (h ^ value) * 0x100000001b3; };
  for (const size_t v : {grid_.rows, grid_.columns, grid_.tile_rows, grid_.tile_columns,
                         num_destinations_, group_ends_.size()})
    mix(v);
  for (const size_t end : group_ends_) mix(end);
  for (const uint32_t tile : order_) mix(tile);
  // An all-to-all's rows go where each rank's routing says: only sums and scatters must agree.
  return h;
}

Inbox::Inbox(std::span<const Plan> sources, size_t destination) : destination_(destination) {
  size_t offset = 0;
  for (size_t group = 0; group < sources[0].num_groups(); ++group) {
    std::vector<size_t>& begins = begins_.emplace_back();
    for (const Plan& source : sources) {
      WEFT_ASSERT(source.num_groups() == sources[0].num_groups());
      begins.push_back(offset);
      offset += source.segment(group, destination).size;
    }
    begins.push_back(offset);
  }
}

size_t Inbox::offset_in_panel(const Plan& plan, size_t source, size_t row, size_t panel) const {
  const size_t position = plan.position_of(row / plan.grid().tile_rows, panel);
  const size_t group = plan.group_of(position);
  return begins_[group][source] + plan.offset(position, row) -
         plan.segment(group, destination_).offset;
}

}  // namespace weft::parallel::flash_overlap
