// The scan of row_sketch.h, written once for every instruction set. A panel holds 16 rows: their
// scales and deviations (bf16), then chunks of 64 bytes for 16 features: byte b of row r's four has
// features b, 4 + b, 8 + b and 12 + b, so that a shift and a mask give a dot product's weights.
#include "hwy/highway.h"
#include "kernels/int8_dot-inl.h"
#include "kernels/row_sketch_scan.h"

WEFT_INT8_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE VF LoadBf16(const uint8_t* p) {
  const hn::Rebind<uint16_t, DF> d16;
  const VU bits = hn::PromoteTo(DU(), hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(bits));
}

void ScanSketch(const SketchScan& scan, size_t first_panel, size_t end_panel,
                std::vector<SketchHit>& hits) {
  const DF df;
  const DU du;
  const VU codes_of_one = hn::Set(du, 0x03030303u);
  const VF threshold = hn::Set(df, scan.threshold), offset = hn::Set(df, scan.offset);
  // Codes are 1.5 above what they stand for.
  const VF surplus = hn::Set(df, 1.5f * static_cast<float>(scan.sum_x));
  const VF step = hn::Set(df, scan.step), reach = hn::Set(df, scan.reach);
  for (size_t p = first_panel; p < end_panel; ++p) {
    const uint8_t* const panel = scan.panels + p * scan.panel_bytes;
    for (size_t slice = 0; slice < kSlices; ++slice) {
      const uint8_t* codes = panel + 4 * kPanelOutputs + slice * kLanes * 4;
      VI sums[4] = {hn::Zero(DI()), hn::Zero(DI()), hn::Zero(DI()), hn::Zero(DI())};
      for (size_t f = 0; f < scan.features; f += 16, codes += 64) {
        if (slice == 0 && scan.asks_ahead) __builtin_prefetch(codes + kSketchPrefetchBytes, 0, 2);
        const VU chunk = hn::LoadU(du, reinterpret_cast<const uint32_t*>(codes));
        const VU quads[4] = {chunk, hn::ShiftRight<2>(chunk), hn::ShiftRight<4>(chunk),
                             hn::ShiftRight<6>(chunk)};
        HWY_UNROLL(4)
        for (size_t i = 0; i < 4; ++i) {
          const VI x = hn::Set(DI(), LoadScalar<int32_t>(scan.x + f + 4 * i));
          sums[i] = Dot4<2>(sums[i], hn::And(quads[i], codes_of_one), x);
        }
      }
      const VI sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
      const VF product = hn::Mul(hn::Sub(hn::ConvertTo(df, sum), surplus), step);
      const uint8_t* const head = panel + slice * kLanes * 2;
      const VF estimate = hn::Add(offset, hn::Mul(product, LoadBf16(head)));
      const VF bound = hn::Add(estimate, hn::Mul(reach, LoadBf16(head + 2 * kPanelOutputs)));
      if (hn::AllFalse(df, hn::Ge(bound, threshold))) continue;
      HWY_ALIGN float bounds[kPanelOutputs];
      hn::Store(bound, df, bounds);
      for (size_t i = 0; i < kLanes; ++i) {
        const size_t row = p * kPanelOutputs + slice * kLanes + i;
        if (bounds[i] >= scan.threshold && row < scan.num_rows)
          hits.push_back({static_cast<uint32_t>(row), bounds[i]});
      }
    }
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
WEFT_INT8_AFTER_NAMESPACE();
