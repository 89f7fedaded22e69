#include "parallel/flash_overlap/overlap.h"

#include <algorithm>
#include <functional>
#include <mutex>

#include "base/error.h"
#include "base/seconds.h"
#include "kernels/elementwise.h"
#include "kernels/tiled_product.h"

namespace weft::parallel::flash_overlap {
namespace {

using Clock = std::chrono::steady_clock;

// The groups of one call: counted tile by tile, started in order, waited for at the end.
class Groups {
 public:
  Groups(const Plan& plan, std::function<comm::Request(size_t)> start, Trace* trace)
      : plan_(plan),
        start_(std::move(start)),
        trace_(trace),
        tiles_(plan.num_groups()),
        requests_(plan.num_groups()) {
    if (trace_ != nullptr) {
      trace_->tiles.assign(plan.num_tiles(), {});
      trace_->groups.assign(plan.num_groups(), {});
    }
  }

  // The tile's values are written. Called by whoever computed it.
  void computed(size_t position) {
    tiles_[plan_.group_of(position)].count.fetch_add(1, std::memory_order_release);
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) advance();  // else somebody is at it, and will be back with the next tile
  }

  // All tiles are computed: until the last group has arrived.
  void finish() {
    const std::lock_guard lock(mutex_);
    advance();
    WEFT_ASSERT(started_ == requests_.size());
    for (; done_ < started_; ++done_) {
      requests_[done_].wait();
      if (trace_ != nullptr) trace_->groups[done_].end_s = now_s();
    }
    if (trace_ != nullptr) trace_->total_s = now_s();
  }

  double now_s() const { return seconds_since(begin_); }
  Trace* trace() const { return trace_; }

 private:
  void advance() {
    // Acquire: the values of all of a group's tiles are seen before they are sent.
    while (started_ < requests_.size() &&
           tiles_[started_].count.load(std::memory_order_acquire) == plan_.tiles_in(started_)) {
      if (trace_ != nullptr) trace_->groups[started_].begin_s = now_s();
      requests_[started_] = start_(started_);
      ++started_;
    }
    // One look at the messages for each tile: it moves all groups on. (A look for each group under way
    // cost the cores more than the messages did.)
    for (; done_ < started_ && requests_[done_].test(); ++done_)
      if (trace_ != nullptr) trace_->groups[done_].end_s = now_s();
  }

  struct alignas(64) Counter {
    std::atomic<size_t> count{0};
  };

  const Plan& plan_;
  const std::function<comm::Request(size_t)> start_;
  Trace* const trace_;
  const Clock::time_point begin_ = Clock::now();
  std::vector<Counter> tiles_;
  std::mutex mutex_;  // guards what follows
  std::vector<comm::Request> requests_;
  size_t started_ = 0, done_ = 0;
};

// The tiles in the plan's order into `values`, telling `groups` of each.
void multiply_tiles(const OverlapCall& call, const Plan& plan, float* values, Groups& groups,
                    const CoreSet& cores) {
  const kernels::Linear& weight = *call.weight;
  WEFT_ASSERT(call.x->num_rows() == plan.grid().rows &&
              weight.out_features() == plan.grid().columns);
  call.x->prepare(weight.activation_kind(), cores);
  const size_t tile_size = plan.grid().tile_rows * plan.grid().tile_columns;
  std::vector<float> scratch(plan.tiles_are_contiguous() ? 0 : cores.size() * tile_size);
  cores.parallel_for(plan.num_tiles(), 1, [&](size_t begin, size_t end, size_t core) {
    for (size_t position = begin; position < end; ++position) {
      const double begin_s = groups.trace() != nullptr ? groups.now_s() : 0;
      const Tile tile = plan.tile(position);
      const kernels::ProductTile product{tile.first_row, tile.num_rows, tile.first_column,
                                         tile.num_columns};
      if (plan.tiles_are_contiguous()) {
        kernels::multiply_tile(weight, *call.x, product,
                               values + plan.offset(position, tile.first_row), tile.num_columns);
      } else {  // rows of a tile go to several places
        float* const rows = scratch.data() + core * tile_size;
        kernels::multiply_tile(weight, *call.x, product, rows, tile.num_columns);
        for (size_t r = 0; r < tile.num_rows; ++r)
          std::copy_n(rows + r * tile.num_columns, tile.num_columns,
                      values + plan.offset(position, tile.first_row + r));
      }
      if (groups.trace() != nullptr)
        groups.trace()->tiles[position] = {begin_s, groups.now_s(), core};
      groups.computed(position);
    }
  });
}

// Calls body(row) for every row that `destination` owns.
template <typename Body>
void for_own_rows(const Plan& plan, size_t destination, const CoreSet& cores, Body&& body) {
  const size_t grain = std::max<size_t>(1, (32 << 10) / plan.grid().columns);
  cores.parallel_for(plan.grid().rows, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row)
      if (plan.destination(row) == destination) body(row);
  });
}

void add_row(const Plan& plan, size_t row, const float* values, const float* bias, float* x) {
  const TileGrid& grid = plan.grid();
  for (size_t panel = 0; panel < grid.num_panels(); ++panel) {
    const size_t first = panel * grid.tile_columns;
    const size_t count = std::min(grid.tile_columns, grid.columns - first);
    const float* const run = values + plan.offset_in_panel(row, panel);
    // The bias joins the product before the residual, as in a Linear that accumulates.
    if (bias == nullptr)
      for (size_t i = 0; i < count; ++i) x[first + i] += run[i];
    else
      for (size_t i = 0; i < count; ++i) x[first + i] += run[i] + bias[first + i];
  }
}

}  // namespace

void multiply_all_reduce(const OverlapCall& call, const Plan& plan, float* values,
                         const CoreSet& cores) {
  WEFT_ASSERT(plan.num_destinations() == 1);
  Groups groups(
      plan,
      [&](size_t group) {
        const Segment segment = plan.segment(group);
        return call.comm->iall_reduce({values + segment.offset, segment.size}, call.channel);
      },
      call.trace);
  multiply_tiles(call, plan, values, groups, cores);
  groups.finish();
}

void multiply_reduce_scatter(const OverlapCall& call, const Plan& plan, float* values,
                             const CoreSet& cores) {
  const size_t n = call.comm->size();
  WEFT_ASSERT(plan.num_destinations() == n);
  std::vector<std::vector<size_t>> begins(plan.num_groups());  // of the ranks' parts in a group
  for (size_t group = 0; group < plan.num_groups(); ++group) {
    const size_t first = plan.segment(group).offset;
    for (size_t rank = 0; rank < n; ++rank)
      begins[group].push_back(plan.segment(group, rank).offset - first);
    begins[group].push_back(plan.segment(group).size);
  }
  Groups groups(
      plan,
      [&](size_t group) {
        const Segment segment = plan.segment(group);
        return call.comm->ireduce_scatter({values + segment.offset, segment.size}, begins[group],
                                          call.channel);
      },
      call.trace);
  multiply_tiles(call, plan, values, groups, cores);
  groups.finish();
}

void multiply_all_to_all(const OverlapCall& call, std::span<const Plan> plans, const Inbox& inbox,
                         float* values, float* received, const CoreSet& cores) {
  const Plan& plan = plans[call.comm->rank()];
  const size_t n = call.comm->size();
  WEFT_ASSERT(plans.size() == n && plan.num_destinations() == n);
  const auto bytes_from = [](std::vector<size_t> begins, size_t first) {
    for (size_t& begin : begins) begin = (begin - first) * sizeof(float);
    return begins;
  };
  std::vector<std::vector<size_t>> out_begins(plan.num_groups()), in_begins(plan.num_groups());
  for (size_t group = 0; group < plan.num_groups(); ++group) {
    const Segment segment = plan.segment(group);
    std::vector<size_t> out;
    for (size_t rank = 0; rank < n; ++rank) out.push_back(plan.segment(group, rank).offset);
    out.push_back(segment.offset + segment.size);
    const std::span<const size_t> in = inbox.begins(group);
    out_begins[group] = bytes_from(std::move(out), segment.offset);
    in_begins[group] = bytes_from({in.begin(), in.end()}, in.front());
  }
  Groups groups(
      plan,
      [&](size_t group) {
        const Segment segment = plan.segment(group);
        const std::span<const size_t> in = inbox.begins(group);
        const std::span<const float> out_values(values + segment.offset, segment.size);
        const std::span<float> in_values(received + in.front(), in.back() - in.front());
        return call.comm->iall_to_all(std::as_bytes(out_values), out_begins[group],
                                      std::as_writable_bytes(in_values), in_begins[group],
                                      call.channel);
      },
      call.trace);
  multiply_tiles(call, plan, values, groups, cores);
  groups.finish();
}

void add_rows(const Plan& plan, size_t destination, const float* values, const float* bias,
              const models::Residual& residual, const CoreSet& cores) {
  for_own_rows(plan, destination, cores, [&](size_t row) {
    float* const x = residual.rows + row * residual.stride;
    add_row(plan, row, values, bias, x);
    if (const models::RowNorm& norm = residual.norm; norm.weight != nullptr)
      kernels::rms_norm(x, norm.weight, norm.epsilon, plan.grid().columns,
                        norm.normed + row * residual.stride);
  });
}

void check_agreement(const Plan& plan, const comm::Communicator& comm, uint32_t channel) {
  std::vector<uint64_t> hashes(comm.size());
  std::vector<size_t> begins(comm.size() + 1);
  for (size_t rank = 0; rank <= comm.size(); ++rank) begins[rank] = rank * sizeof(uint64_t);
  hashes[comm.rank()] = plan.hash();
  comm.all_gather(std::as_writable_bytes(std::span(hashes)), begins, channel);
  for (size_t rank = 1; rank < comm.size(); ++rank)
    if (hashes[rank] != hashes[0])
      fail(
          ErrorKind::kInvalidInput,
          "rank {} would send the tiles of a {} x {} product in other groups or another order than "
          "rank 0: the ranks run different versions, thread counts or tuning files",
          rank, plan.grid().rows, plan.grid().columns);
}

}  // namespace weft::parallel::flash_overlap
