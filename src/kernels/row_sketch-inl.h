// The loops of row_sketch.h, written once for every instruction set. A panel holds 16 rows: their
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

// columns: (num_blocks, block, 16), one row in each lane: a Hadamard matrix along each block,
// without its factor.
HWY_INLINE void HadamardOfLanes(size_t num_blocks, size_t block, float* columns) {
  const DF df;
  for (size_t half = 1; half < block; half *= 2) {
    for (size_t begin = 0; begin < num_blocks * block; begin += 2 * half) {
      float* a = columns + begin * kPanelOutputs;
      for (const float* const end = a + half * kPanelOutputs; a != end; a += kLanes) {
        float* const b = a + half * kPanelOutputs;
        const VF x = hn::LoadU(df, a), y = hn::LoadU(df, b);
        hn::StoreU(hn::Add(x, y), df, a);
        hn::StoreU(hn::Sub(x, y), df, b);
      }
    }
  }
}

void PackSketch(const SketchPack& pack, float* columns, float* room, uint8_t* codes,
                SketchSums& sums) {
  const DF df;
  const DU du;
  const size_t features = pack.num_blocks * pack.block;
  HadamardOfLanes(pack.num_blocks, pack.block, columns);
  const float* values = columns;
  if (pack.num_blocks > 1) {
    for (size_t b = 0; b < pack.num_blocks; ++b)
      for (size_t i = 0; i < pack.block; ++i)
        std::memcpy(room + (i * pack.num_blocks + b) * kPanelOutputs,
                    columns + (b * pack.block + i) * kPanelOutputs, sizeof(float) * kPanelOutputs);
    HadamardOfLanes(pack.num_blocks, pack.block, room);
    values = room;
  }
  const VF factor = hn::Set(df, pack.factor), one = hn::Set(df, 1.0f), zero = hn::Zero(df);
  for (size_t slice = 0; slice < kPanelOutputs; slice += kLanes) {
    const VF inverse = hn::LoadU(df, sums.inverse_steps + slice);
    VF product = zero, code_square = zero;
    for (size_t f = 0; f < features; f += 16) {
      VU word = hn::Zero(du);
      for (size_t i = 0; i < 16; ++i) {
        const VF v = hn::Mul(hn::LoadU(df, values + (f + i) * kPanelOutputs + slice), factor);
        const VF t = hn::Mul(v, inverse);
        const VF code = hn::Add(hn::IfThenElseZero(hn::Ge(t, hn::Neg(one)), one),
                                hn::Add(hn::IfThenElseZero(hn::Ge(t, zero), one),
                                        hn::IfThenElseZero(hn::Ge(t, one), one)));
        const VF q = hn::Sub(code, hn::Set(df, 1.5f));
        product = hn::MulAdd(q, v, product);
        code_square = hn::MulAdd(q, q, code_square);
        const VU bits = hn::BitCast(du, hn::ConvertTo(DI(), code));
        word = hn::Or(word, hn::ShiftLeftSame(bits, static_cast<int>(8 * (i % 4) + 2 * (i / 4))));
      }
      hn::StoreU(word, du, reinterpret_cast<uint32_t*>(codes + f * 4 + slice * 4));
    }
    hn::StoreU(product, df, sums.products + slice);
    hn::StoreU(code_square, df, sums.code_squares + slice);
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
WEFT_INT8_AFTER_NAMESPACE();
