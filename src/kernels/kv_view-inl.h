// Rounding of rows to 16 bit, written once for every instruction set.
#include <algorithm>

#include "hwy/highway.h"
#include "kernels/kv_view.h"
#include "kernels/quantize.h"

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DKv = hn::CappedTag<float, 16>;
using DKv16 = hn::Rebind<uint16_t, DKv>;

HWY_INLINE hn::Vec<DKv16> RoundToBf16(hn::Vec<DKv> x) {
  const DKv d;
  const hn::Rebind<uint32_t, DKv> du;
  const hn::Rebind<int32_t, DKv> di;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu))));
  const auto nan = hn::BitCast(du, hn::VecFromMask(d, hn::IsNaN(x)));
  const auto kept = hn::Or(hn::AndNot(nan, rounded), hn::And(nan, hn::Set(du, 0x7FC0u)));
  return hn::DemoteTo(DKv16(), hn::BitCast(di, kept));
}

// n a multiple of 16.
void RoundRowBf16(const float* x, size_t n, uint16_t* out) {
  const DKv d;
  for (size_t i = 0; i < n; i += hn::Lanes(d))
    hn::StoreU(RoundToBf16(hn::LoadU(d, x + i)), DKv16(), out + i);
}

void RoundRowF16(const float* x, size_t n, uint16_t* out) {
  constexpr float kMax = 65504;
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
  const DKv d;
  const hn::Rebind<hwy::float16_t, DKv> d16;
  for (size_t i = 0; i < n; i += hn::Lanes(d)) {
    // Operands in this order keep a NaN.
    const auto v = hn::Min(hn::Set(d, kMax), hn::Max(hn::Set(d, -kMax), hn::LoadU(d, x + i)));
    hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(out + i));
  }
#else  // Highway 1.0.3 emulates the conversion by cutting bits off
  for (size_t i = 0; i < n; ++i) out[i] = float_to_half(std::clamp(x[i], -kMax, kMax));
#endif
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
