// What kernels with int8 products share: vectors of 16 outputs (or slices of them on narrower
// machines), and the product of u8 weights with i8 activations in each 32-bit lane.

#if defined(WEFT_KERNELS_INT8_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_KERNELS_INT8_DOT_INL_H_
#undef WEFT_KERNELS_INT8_DOT_INL_H_
#else
#define WEFT_KERNELS_INT8_DOT_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/panel_layout.h"

// WEFT_ATTR: for lambdas, as HWY_ATTR.
#undef WEFT_TARGET
#undef WEFT_ATTR
#undef WEFT_INT8_BEFORE_NAMESPACE
#undef WEFT_INT8_AFTER_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL
// Highway 1.0.3 asks for the VEX form of VNNI only; the EVEX form used here is the one that every
// CPU of this target has.
#define WEFT_TARGET HWY_TARGET_STR ",avx512vnni"
#define WEFT_ATTR __attribute__((target(WEFT_TARGET)))
#define WEFT_INT8_BEFORE_NAMESPACE() HWY_PUSH_ATTRIBUTES(WEFT_TARGET)
#define WEFT_INT8_AFTER_NAMESPACE() HWY_POP_ATTRIBUTES
#else
#define WEFT_ATTR HWY_ATTR
#define WEFT_INT8_BEFORE_NAMESPACE() HWY_BEFORE_NAMESPACE()
#define WEFT_INT8_AFTER_NAMESPACE() HWY_AFTER_NAMESPACE()
#endif

WEFT_INT8_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::Rebind<int32_t, DF>;
using DU = hn::Rebind<uint32_t, DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
constexpr size_t kLanes = hn::MaxLanes(DF());
constexpr size_t kSlices = kPanelOutputs / kLanes;

template <typename T>
HWY_INLINE T LoadScalar(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// acc += sum of 4 products of u8 weights and i8 activations in each 32-bit lane. `kBits` bounds the
// weights: AVX2's 16-bit intermediate holds products of up to 7 bits.
template <int kBits>
HWY_INLINE VI Dot4(VI acc, VU weights, VI x) {
#if HWY_TARGET == HWY_AVX3_DL
  return VI{_mm512_dpbusd_epi32(acc.raw, weights.raw, x.raw)};
#elif HWY_TARGET == HWY_AVX2
  __m256i products;
  if constexpr (kBits == 8) {
    const __m256i w = _mm256_xor_si256(weights.raw, _mm256_set1_epi8(-128));
    products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x.raw, w));
  } else {
    products = _mm256_maddubs_epi16(weights.raw, x.raw);
  }
  return VI{_mm256_add_epi32(acc.raw, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))};
#elif HWY_TARGET == HWY_SCALAR
  int32_t sum = hn::GetLane(acc);
  for (int i = 0; i < 4; ++i) {
    const auto w = static_cast<int32_t>(hn::GetLane(weights) >> (8 * i) & 255);
    sum += w * static_cast<int8_t>(static_cast<uint32_t>(hn::GetLane(x)) >> (8 * i));
  }
  return hn::Set(DI(), sum);
#else
  // 16-bit lanes: even bytes, then odd bytes; a product of u8 and i8 in [-127, 127] fits 16 bits.
  const hn::Repartition<int16_t, DI> d16;
  const hn::Repartition<uint16_t, DI> du16;
  const auto w16 = hn::BitCast(du16, weights);
  const auto x16 = hn::BitCast(d16, x);
  const auto even = hn::Mul(hn::BitCast(d16, hn::And(w16, hn::Set(du16, uint16_t{0xFF}))),
                            hn::ShiftRight<8>(hn::ShiftLeft<8>(x16)));
  const auto odd = hn::Mul(hn::BitCast(d16, hn::ShiftRight<8>(w16)), hn::ShiftRight<8>(x16));
  const DI d32;
  for (const auto& products : {even, odd}) {
    const VI p = hn::BitCast(d32, products);
    acc = hn::Add(acc, hn::Add(hn::ShiftRight<16>(hn::ShiftLeft<16>(p)), hn::ShiftRight<16>(p)));
  }
  return acc;
#endif
}

// Where a product takes several instructions, GCC puts the additions off until the sums of a
// block's products no longer fit the registers. This holds it to the order written.
HWY_INLINE void KeepOrder([[maybe_unused]] VI& sum) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
  asm("" : "+x"(sum.raw));
#endif
}

// Whether Dot4 above takes the 128 off 8-bit weights itself.
constexpr bool kDotTakesOffset8 = HWY_TARGET == HWY_AVX2;

}  // namespace weft::kernels::HWY_NAMESPACE
WEFT_INT8_AFTER_NAMESPACE();

#endif  // toggled
