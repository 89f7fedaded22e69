#include "kernels/row_sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "kernels/dispatch.h"
#include "kernels/kv_transform.h"
#include "kernels/panel_layout.h"
#include "kernels/quantize.h"
#include "kernels/row_sketch_scan.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_sketch.cc"
#include "hwy/foreach_target.h"
#include "kernels/row_sketch-inl.h"

#if HWY_ONCE
namespace weft::kernels {
HWY_EXPORT(PackSketch);
HWY_EXPORT(ScanSketch);

namespace {

constexpr size_t kPanelHead = 2 * kPanelOutputs * sizeof(uint16_t);
constexpr size_t kPiecePanels = 64;  // of a piece of work: 1024 rows
// Of two bits for a normal distribution: levels of +-0.5 and +-1.5 steps (Max, "Quantizing for
// minimum distortion", 1960, table II).
constexpr double kStep = 0.9957;
// The mean row of some rows is as good a middle as that of all.
constexpr size_t kMeanStride = 8;

size_t power_of_two_in(size_t n) { return n & (~n + 1); }

size_t bytes_of_panel(size_t features) { return kPanelHead + kPanelOutputs * features / 4; }

uint16_t bf16_not_below(float x) {  // x >= 0
  uint16_t bits = float_to_bfloat16(x);
  if (bfloat16_to_float(bits) < x) ++bits;
  return bits;
}

}  // namespace

size_t RowSketch::bytes(size_t num_rows, size_t features) {
  return (num_rows + kPanelOutputs - 1) / kPanelOutputs * bytes_of_panel(features) +
         2 * features * sizeof(float);
}

void RowSketch::rotate(float* values, float* room) const {
  const size_t num_blocks = features_ / block_;
  for (size_t i = 0; i < features_; ++i) values[i] *= signs_[i];
  hadamard(num_blocks, block_, values);
  if (num_blocks == 1) return;
  for (size_t block = 0; block < num_blocks; ++block)
    for (size_t i = 0; i < block_; ++i) room[i * num_blocks + block] = values[block * block_ + i];
  hadamard(num_blocks, block_, room);
  std::copy_n(room, features_, values);
}

void RowSketch::pack_panel(const TensorView& weight, size_t panel, float* room,
                           uint8_t* out) const {
  float* const row_values = room;
  float* const columns = row_values + features_;
  std::fill_n(columns, kPanelOutputs * features_, 0.0f);
  double squares[kPanelOutputs] = {};
  SketchSums sums = {};
  for (size_t lane = 0; lane < kPanelOutputs; ++lane) {
    const size_t row = panel * kPanelOutputs + lane;
    if (row >= num_rows_) break;
    dequantize(weight.dtype, weight.row(row), row_values, features_);
    for (size_t i = 0; i < features_; ++i) {
      const float value = row_values[i] - mean_[i];
      squares[lane] += double{value} * value;
      columns[i * kPanelOutputs + lane] = value * signs_[i];
    }
    const double deviation = std::sqrt(squares[lane] / static_cast<double>(features_));
    sums.inverse_steps[lane] = deviation > 0 ? static_cast<float>(1 / (kStep * deviation)) : 0;
  }
  const size_t num_blocks = features_ / block_;
  const auto length = static_cast<float>(block_);
  const SketchPack pack = {num_blocks, block_, 1 / (num_blocks > 1 ? length : std::sqrt(length))};
  WEFT_DISPATCH(PackSketch)
  (pack, columns, columns + kPanelOutputs * features_, out + kPanelHead, sums);
  for (size_t lane = 0; lane < kPanelOutputs; ++lane) {
    const double square = squares[lane], product = sums.products[lane];
    if (square == 0) continue;  // the mean row itself: scale and deviation stay 0
    const double cos2 = product * product / (sums.code_squares[lane] * square);
    const double deviation =
        std::sqrt(square * std::max(0.0, 1 / cos2 - 1) / static_cast<double>(features_ - 1));
    const uint16_t head[] = {float_to_bfloat16(static_cast<float>(square / product)),
                             bf16_not_below(static_cast<float>(deviation))};
    for (size_t side = 0; side < 2; ++side)
      std::memcpy(out + (side * kPanelOutputs + lane) * sizeof(uint16_t), &head[side],
                  sizeof(uint16_t));
  }
}

RowSketch RowSketch::make(const TensorView& weight, size_t num_rows, const CoreSet& cores) {
  WEFT_ASSERT(weight.shape.rank() == 2 && num_rows <= weight.shape.rows());
  RowSketch sketch;
  sketch.num_rows_ = num_rows;
  sketch.features_ = weight.shape.columns();
  const size_t features = sketch.features_;
  if (features % 16 != 0 || features == 0)
    fail(ErrorKind::kUnsupported, "a sketch needs rows of a multiple of 16 values, these have {}",
         features);
  sketch.block_ = power_of_two_in(features);
  sketch.panel_bytes_ = bytes_of_panel(features);
  for (size_t i = 0; i < features; ++i)
    sketch.signs_.push_back(uniform(0, 0, static_cast<uint32_t>(i)) < 0.5 ? -1.0f : 1.0f);

  // Pieces are summed in their order, so the mean does not depend on who computed them.
  constexpr size_t kPieceRows = kPiecePanels * kPanelOutputs;
  const size_t num_pieces = (num_rows + kPieceRows - 1) / kPieceRows;
  std::vector<double> sums(num_pieces * features);
  std::vector<std::vector<float>> rooms(cores.size(),
                                        std::vector<float>((1 + 2 * kPanelOutputs) * features));
  cores.parallel_for(num_pieces, 1, [&](size_t begin, size_t end, size_t core) {
    float* const row = rooms[core].data();
    for (size_t piece = begin; piece < end; ++piece) {
      const size_t rows_end = std::min(num_rows, (piece + 1) * kPieceRows);
      for (size_t r = piece * kPieceRows; r < rows_end; r += kMeanStride) {
        dequantize(weight.dtype, weight.row(r), row, features);
        for (size_t i = 0; i < features; ++i) sums[piece * features + i] += double{row[i]};
      }
    }
  });
  std::vector<double> sum(features);
  for (size_t piece = 0; piece < num_pieces; ++piece)
    for (size_t i = 0; i < features; ++i) sum[i] += sums[piece * features + i];
  size_t num_summed = 0;
  for (size_t r = 0; r < num_rows; r += kPieceRows)
    num_summed += (std::min(kPieceRows, num_rows - r) + kMeanStride - 1) / kMeanStride;
  for (const double s : sum)
    sketch.mean_.push_back(
        static_cast<float>(s / static_cast<double>(std::max<size_t>(1, num_summed))));

  const size_t num_panels = (num_rows + kPanelOutputs - 1) / kPanelOutputs;
  sketch.panels_ = Buffer(num_panels * sketch.panel_bytes_, "the sketch of the head");
  cores.parallel_for(num_panels, kPiecePanels, [&](size_t begin, size_t end, size_t core) {
    for (size_t panel = begin; panel < end; ++panel)
      sketch.pack_panel(weight, panel, rooms[core].data(),
                        sketch.panels_.as<uint8_t>() + panel * sketch.panel_bytes_);
  });
  return sketch;
}

void SketchQuery::set(const RowSketch& sketch, std::span<const float> x) {
  WEFT_ASSERT(x.size() == sketch.features_);
  rotated_.resize(2 * x.size());
  codes_.resize(x.size());
  double square = 0, mean_product = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    square += double{x[i]} * x[i];
    mean_product += double{x[i]} * sketch.mean_[i];
  }
  std::copy(x.begin(), x.end(), rotated_.begin());
  sketch.rotate(rotated_.data(), rotated_.data() + x.size());
  float largest = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(rotated_[i]));
  step_ = largest / 127;
  const float inverse = largest > 0 ? 127 / largest : 0;
  sum_ = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    codes_[i] = static_cast<int8_t>(std::lrint(std::clamp(rotated_[i] * inverse, -127.0f, 127.0f)));
    sum_ += codes_[i];
  }
  length_ = static_cast<float>(std::sqrt(square));
  mean_product_ = static_cast<float>(mean_product);
}

void RowSketch::scan(SketchQuery& query, float threshold, float deviations, const CoreSet& cores,
                     std::vector<SketchHit>& hits) const {
  WEFT_ASSERT(query.codes_.size() == features_);
  const SketchScan scan = {.panels = panels_.as<uint8_t>(),
                           .panel_bytes = panel_bytes_,
                           .num_rows = num_rows_,
                           .features = features_,
                           .x = query.codes_.data(),
                           .sum_x = query.sum_,
                           .step = query.step_,
                           .offset = query.mean_product_,
                           .reach = deviations * query.length_,
                           .threshold = threshold,
                           .asks_ahead = asks_ahead()};
  const size_t num_panels = (num_rows_ + kPanelOutputs - 1) / kPanelOutputs;
  const size_t num_pieces = (num_panels + kPiecePanels - 1) / kPiecePanels;
  if (query.pieces_.size() < num_pieces) query.pieces_.resize(num_pieces);
  cores.parallel_for(num_pieces, 1, [&](size_t begin, size_t end, size_t) {
    for (size_t piece = begin; piece < end; ++piece) {
      query.pieces_[piece].clear();
      WEFT_DISPATCH(ScanSketch)
      (scan, piece * kPiecePanels, std::min(num_panels, (piece + 1) * kPiecePanels),
       query.pieces_[piece]);
    }
  });
  hits.clear();
  for (size_t piece = 0; piece < num_pieces; ++piece)
    hits.insert(hits.end(), query.pieces_[piece].begin(), query.pieces_[piece].end());
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
