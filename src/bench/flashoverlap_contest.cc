#include "bench/flashoverlap_contest.h"

#include <algorithm>

#include "base/seconds.h"
#include "bench/kernel_tables.h"
#include "kernels/elementwise.h"
#include "kernels/quantize.h"

namespace weft::bench {
namespace {

namespace flash_overlap = parallel::flash_overlap;
using Clock = std::chrono::steady_clock;

constexpr float kEpsilon = 1e-5f;

}  // namespace

ProductContest::ProductContest(const ProductShape& shape, const comm::Communicator& ranks,
                               const CoreSet& cores)
    : shape_(shape),
      ranks_(ranks),
      cores_(cores),
      x_(random_values(shape.rows * shape.features, 17 + ranks.rank())),
      residual_(random_values(shape.rows * shape.columns, 5)),
      out_(residual_.size()),
      values_(residual_.size()),
      normed_(residual_.size()),
      norm_weight_(random_values(shape.columns, 6)) {
  const std::vector<float> weights =
      random_values(shape.columns * shape.features, 31 + ranks.rank());
  std::vector<uint8_t> quantised(bytes_of(DType::kQ8_0, weights.size()));
  kernels::quantize(DType::kQ8_0, weights.data(), quantised.data(), weights.size());
  weight_ = kernels::Linear::pack(
      {DType::kQ8_0, {shape.columns, shape.features}, quantised.data()}, cores);
}

flash_overlap::OverlapCall ProductContest::call() {
  activations_.set(x_.data(), shape_.rows, shape_.features, shape_.features);
  return {&weight_, &activations_, &ranks_};
}

flash_overlap::TileGrid ProductContest::grid() const {
  return flash_overlap::preferred_grid(weight_, shape_.rows, cores_.size());
}

double ProductContest::timed(const std::function<void()>& body) {
  out_ = residual_;
  ranks_.barrier();
  const auto begin = Clock::now();
  body();
  double seconds = seconds_since(begin);
  flash_overlap::take_largest({nullptr, nullptr, &ranks_}, {&seconds, 1});
  return seconds;
}

void ProductContest::multiply_rows(size_t begin, size_t end) {
  block_.set(x_.data() + begin * shape_.features, end - begin, shape_.features, shape_.features);
  const kernels::LinearCall call[] = {
      {&weight_, values_.data() + begin * shape_.columns, shape_.columns}};
  kernels::multiply(call, block_, cores_);
}

void ProductContest::add_rows(size_t begin, size_t end) {
  cores_.parallel_for(end - begin, 16, [&](size_t first, size_t last, size_t) {
    for (size_t i = (begin + first) * shape_.columns; i < (begin + last) * shape_.columns; ++i)
      out_[i] += values_[i];
  });
}

void ProductContest::add_rows_and_norm(size_t begin, size_t end) {
  cores_.parallel_for(end - begin, 16, [&](size_t first, size_t last, size_t) {
    for (size_t row = begin + first; row < begin + last; ++row) {
      const size_t at = row * shape_.columns;
      for (size_t i = at; i < at + shape_.columns; ++i) out_[i] += values_[i];
      kernels::rms_norm(out_.data() + at, norm_weight_.data(), kEpsilon, shape_.columns,
                        normed_.data() + at);
    }
  });
}

double ProductContest::product_s() {
  return timed([&] { multiply_rows(0, shape_.rows); });
}

double ProductContest::collective_s() {
  return timed([&] { ranks_.all_reduce(values_); });
}

double ProductContest::all_reduce() {
  return timed([&] {
    multiply_rows(0, shape_.rows);
    ranks_.all_reduce(values_);
    add_rows(0, shape_.rows);
  });
}

double ProductContest::all_reduce_blocks(size_t count) {
  return timed([&] {
    std::vector<comm::Request> under_way;
    const auto border = [&](size_t b) {
      return b == count ? shape_.rows : shape_.rows * b / count / 8 * 8;
    };
    for (size_t b = 0; b < count; ++b) {
      multiply_rows(border(b), border(b + 1));
      for (comm::Request& request : under_way) request.test();
      under_way.push_back(ranks_.iall_reduce(std::span(values_).subspan(
          border(b) * shape_.columns, (border(b + 1) - border(b)) * shape_.columns)));
    }
    for (size_t b = 0; b < count; ++b) {
      under_way[b].wait();
      add_rows(border(b), border(b + 1));
    }
  });
}

double ProductContest::all_reduce(const Plan& plan, flash_overlap::Trace* trace) {
  return timed([&] {
    flash_overlap::OverlapCall traced = call();
    traced.trace = trace;
    flash_overlap::multiply_all_reduce(traced, plan, values_.data(), cores_);
    flash_overlap::add_rows(plan, 0, values_.data(), nullptr, {out_.data(), shape_.columns}, cores_);
  });
}

double ProductContest::reduce_scatter() {
  return timed([&] {
    multiply_rows(0, shape_.rows);
    std::vector<size_t> begins;
    for (size_t r = 0; r <= ranks_.size(); ++r)
      begins.push_back(shape_.rows * r / ranks_.size() * shape_.columns);
    ranks_.reduce_scatter(values_, begins);
    const size_t first = begins[ranks_.rank()] / shape_.columns;
    add_rows_and_norm(first, begins[ranks_.rank() + 1] / shape_.columns);
  });
}

double ProductContest::reduce_scatter(const Plan& plan) {
  return timed([&] {
    flash_overlap::multiply_reduce_scatter(call(), plan, values_.data(), cores_);
    flash_overlap::add_rows(
        plan, ranks_.rank(), values_.data(), nullptr,
        {out_.data(), shape_.columns, {norm_weight_.data(), kEpsilon, normed_.data()}}, cores_);
  });
}

double ProductContest::all_to_all() {
  const size_t n = ranks_.size(), me = ranks_.rank(), columns = shape_.columns;
  // Rows by destination, as a dispatcher would lay them out; every source has as many.
  std::vector<float> packed(values_.size());
  std::vector<size_t> out_begins = {0}, in_begins = {0};
  const size_t mine = (shape_.rows + n - 1 - me) / n;
  for (size_t r = 0; r < n; ++r) {
    out_begins.push_back(out_begins.back() + (shape_.rows + n - 1 - r) / n * columns * sizeof(float));
    in_begins.push_back(in_begins.back() + mine * columns * sizeof(float));
  }
  received_.assign(n * mine * columns, 0.0f);
  return timed([&] {
    multiply_rows(0, shape_.rows);
    float* to = packed.data();
    for (size_t r = 0; r < n; ++r)
      for (size_t row = r; row < shape_.rows; row += n, to += columns)
        std::copy_n(values_.data() + row * columns, columns, to);
    ranks_.all_to_all(std::as_bytes(std::span(packed)), out_begins,
                      std::as_writable_bytes(std::span(received_)), in_begins);
  });
}

double ProductContest::all_to_all(std::span<const Plan> plans) {
  const size_t n = ranks_.size(), me = ranks_.rank();
  const flash_overlap::Inbox inbox(plans, me);
  std::vector<float> in(inbox.size());
  const size_t mine = (shape_.rows + n - 1 - me) / n;
  received_.assign(n * mine * shape_.columns, 0.0f);
  const flash_overlap::TileGrid grid = plans[me].grid();
  return timed([&] {
    flash_overlap::multiply_all_to_all(call(), plans, inbox, values_.data(), in.data(), cores_);
    cores_.parallel_for(n * mine, 16, [&](size_t first, size_t last, size_t) {
      for (size_t i = first; i < last; ++i) {
        const size_t source = i / mine, row = i % mine * n + me;
        for (size_t panel = 0; panel < grid.num_panels(); ++panel) {
          const size_t column = panel * grid.tile_columns;
          std::copy_n(in.data() + inbox.offset_in_panel(plans[source], source, row, panel),
                      std::min(grid.tile_columns, shape_.columns - column),
                      received_.data() + i * shape_.columns + column);
        }
      }
    });
  });
}

double ProductContest::read_rows() {
  return timed([&] { add_rows_and_norm(0, shape_.rows); });
}

double ProductContest::read_map(const Plan& plan) {
  return timed([&] {
    flash_overlap::add_rows(
        plan, 0, values_.data(), nullptr,
        {out_.data(), shape_.columns, {norm_weight_.data(), kEpsilon, normed_.data()}}, cores_);
  });
}

}  // namespace weft::bench
