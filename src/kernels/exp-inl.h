// Exponentials of vectors, shared by the row operations and attention.

#if defined(WEFT_KERNELS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_KERNELS_EXP_INL_H_
#undef WEFT_KERNELS_EXP_INL_H_
#else
#define WEFT_KERNELS_EXP_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 2^f for |f| <= 1/2, relative error below 1e-7 with rounding; exactly 1 for 0. Coefficients:
// minimax fit of the relative error, 1.6e-8 as rounded to f32.
template <class D, class V>
HWY_INLINE V Pow2Fraction(D d, V f) {
  V p = hn::Set(d, 0x1.41fbbcp-13f);
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.5f3e54p-10f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.3b2d4cp-7f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.c6aee8p-5f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.ebfbdcp-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.62e430p-1f));
  return hn::MulAdd(p, f, hn::Set(d, 1.0f));
}

// p * 2^n by adding to the exponent; p in [0.7, 1.5], n whole and in [-126, 127].
template <class D, class V>
HWY_INLINE V ScaleByPow2(D d, V p, hn::Vec<hn::Rebind<int32_t, D>> n) {
  const hn::Rebind<int32_t, D> di;
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(n)));
}

// 2^x for x <= 127; 0 below -125, where attention weights no longer matter. NaN stays NaN.
template <class D, class V>
HWY_INLINE V Exp2(D d, V x) {
  const auto n = hn::NearestInt(x);
  const V y = ScaleByPow2(d, Pow2Fraction(d, hn::Sub(x, hn::ConvertTo(d, n))), n);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -125.0f)), y);
}

// e^x, relative error below 2e-7; 0 below -87 (where e^x < 2^-125), e^88 above 88. NaN stays NaN.
template <class D, class V>
HWY_INLINE V Exp(D d, V x) {
  x = hn::Min(hn::Set(d, 88.0f), x);  // in this order x86 keeps a NaN
  const auto n = hn::NearestInt(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const V whole = hn::ConvertTo(d, n);
  // ln 2 in two parts (Cody and Waite), the first short enough for an exact product.
  V r = hn::NegMulAdd(whole, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(whole, hn::Set(d, -2.12194440e-4f), r);
  const V y = ScaleByPow2(d, Pow2Fraction(d, hn::Mul(r, hn::Set(d, 1.44269504f))), n);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.0f)), y);
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // WEFT_KERNELS_EXP_INL_H_
