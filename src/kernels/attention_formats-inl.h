// How attention reads 16-bit pages: the formats of kv_view.h, and register tiles of scores and
// weighted sums over them.

#if defined(WEFT_KERNELS_ATTENTION_FORMATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_KERNELS_ATTENTION_FORMATS_INL_H_
#undef WEFT_KERNELS_ATTENTION_FORMATS_INL_H_
#else
#define WEFT_KERNELS_ATTENTION_FORMATS_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/attention_tile.h"

// For the three files of attention: what the instructions used here ask for, beyond Highway 1.0.3's
// target. Only BF16Native uses bf16, where has_native_bf16() says that the CPU has it.
#undef WEFT_ATTENTION_NATIVE_BF16
#undef WEFT_ATTENTION_BEFORE_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL && !defined(__clang__)
#define WEFT_ATTENTION_NATIVE_BF16 1
#define WEFT_ATTENTION_TARGET HWY_TARGET_STR ",avx512vnni,avx512bf16"
#define WEFT_ATTENTION_BEFORE_NAMESPACE() HWY_PUSH_ATTRIBUTES(WEFT_ATTENTION_TARGET)
#elif HWY_TARGET == HWY_AVX3_DL
#define WEFT_ATTENTION_NATIVE_BF16 0
#define WEFT_ATTENTION_TARGET HWY_TARGET_STR ",avx512vnni"
#define WEFT_ATTENTION_BEFORE_NAMESPACE() HWY_PUSH_ATTRIBUTES(WEFT_ATTENTION_TARGET)
#else
#define WEFT_ATTENTION_NATIVE_BF16 0
#define WEFT_ATTENTION_BEFORE_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif

WEFT_ATTENTION_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DU = hn::Rebind<uint32_t, DF>;
using DI = hn::Rebind<int32_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
constexpr size_t kLanes = hn::MaxLanes(DF());
constexpr size_t kPageVectors = kPageTokens / kLanes;
// Rows whose accumulators fit the registers: 32 of them in AVX-512, 16 elsewhere.
constexpr size_t kScoreRows = kLanes == 16 ? 8 : 4;
constexpr size_t kWeighRows = kLanes == 16 ? 6 : 3;

// ---- formats. A page is rows of units, kPack values each that meet in one dot product: keys are
// (head_dim / kPack, 32 tokens), values (32 / kPack, head_dim). `Other` is a unit of the other
// side.

struct F16 {
  static constexpr size_t kPack = 1;
  using Other = float;
  using Units = VF;
  static HWY_INLINE Units Load(const uint8_t* row, size_t unit) {
    const hn::Rebind<hwy::float16_t, DF> d;
    return hn::PromoteTo(DF(), hn::LoadU(d, reinterpret_cast<const hwy::float16_t*>(row) + unit));
  }
  static HWY_INLINE Units LoadHalf(const uint8_t* row, size_t unit, uint32_t) {
    return Load(row, unit);
  }
  static HWY_INLINE VF Dot(VF acc, Units units, Other x) {
    return hn::MulAdd(hn::Set(DF(), x), units, acc);
  }
};

// bf16 pairs widened to f32; queries and probabilities stay f32.
struct BF16Widened {
  static constexpr size_t kPack = 2;
  struct Other {
    float low, high;
  };
  struct Units {
    VF low, high;
  };
  static HWY_INLINE Units Widen(VU pairs) {
    return {hn::BitCast(DF(), hn::ShiftLeft<16>(pairs)),
            hn::BitCast(DF(), hn::And(pairs, hn::Set(DU(), 0xFFFF0000u)))};
  }
  static HWY_INLINE Units Load(const uint8_t* row, size_t unit) {
    return Widen(hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(row) + unit));
  }
  static HWY_INLINE Units LoadHalf(const uint8_t* row, size_t unit, uint32_t mask) {
    const VU pairs = hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(row) + unit);
    return Widen(hn::And(pairs, hn::Set(DU(), mask)));
  }
  static HWY_INLINE VF Dot(VF acc, const Units& units, Other x) {
    acc = hn::MulAdd(hn::Set(DF(), x.low), units.low, acc);
    return hn::MulAdd(hn::Set(DF(), x.high), units.high, acc);
  }
};

#if WEFT_ATTENTION_NATIVE_BF16
struct BF16Native {
  static constexpr size_t kPack = 2;
  using Other = uint32_t;
  using Units = VU;
  static HWY_INLINE Units Load(const uint8_t* row, size_t unit) {
    return hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(row) + unit);
  }
  static HWY_INLINE Units LoadHalf(const uint8_t* row, size_t unit, uint32_t mask) {
    return hn::And(Load(row, unit), hn::Set(DU(), mask));
  }
  static HWY_INLINE VF Dot(VF acc, Units units, Other x) {
    const __m512i pair = _mm512_set1_epi32(static_cast<int>(x));
    return VF{_mm512_dpbf16_ps(acc.raw, reinterpret_cast<__m512bh>(units.raw),
                               reinterpret_cast<__m512bh>(pair))};
  }
};

// n f32 values, up to a multiple of 32, to bf16 (what follows the rows is room in the scratch).
HWY_INLINE void RoundRowsToBf16(const float* x, size_t n, uint32_t* pairs) {
  for (size_t i = 0; i < n; i += 32) {
    const __m512bh rounded =
        _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
    _mm512_storeu_si512(pairs + i / 2, reinterpret_cast<__m512i>(rounded));
  }
}
#endif

// ---- register tiles

template <class Format>
struct ScoresOf {
  const uint8_t* keys;
  size_t dim;
  const typename Format::Other* queries;  // (rows, dim / kPack)
  float* scores;                          // (rows, 32)
  static constexpr size_t kMaxRows = kScoreRows;

  template <size_t M>
  HWY_INLINE void Run(size_t row) const {
    const size_t depth = dim / Format::kPack;
    const typename Format::Other* q = queries + row * depth;
    for (size_t column = 0; column < kPageTokens; column += 2 * kLanes) {
      VF acc[M][2];
      HWY_UNROLL(8)
      for (size_t m = 0; m < M; ++m) acc[m][0] = acc[m][1] = hn::Zero(DF());
      constexpr size_t kRowBytes = kPageTokens * 2 * Format::kPack;
      const uint8_t* units = keys;
      for (size_t i = 0; i < depth; ++i, units += kRowBytes) {
        const auto k0 = Format::Load(units, column);
        const auto k1 = Format::Load(units, column + kLanes);
        HWY_UNROLL(8)
        for (size_t m = 0; m < M; ++m) {
          acc[m][0] = Format::Dot(acc[m][0], k0, q[m * depth + i]);
          acc[m][1] = Format::Dot(acc[m][1], k1, q[m * depth + i]);
        }
      }
      HWY_UNROLL(8)
      for (size_t m = 0; m < M; ++m) {
        float* out = scores + (row + m) * kPageTokens + column;
        hn::StoreU(acc[m][0], DF(), out);
        hn::StoreU(acc[m][1], DF(), out + kLanes);
      }
    }
  }
};

// sums += probabilities x values over the tokens [begin, end) of a page.
template <class Format>
struct WeighedSumOf {
  const uint8_t* values;
  size_t dim;
  const typename Format::Other* probabilities;  // (rows, 32 / kPack)
  float* sums;                                  // (rows, dim)
  size_t begin, end;
  static constexpr size_t kMaxRows = kWeighRows;

  template <size_t M>
  HWY_INLINE void Run(size_t row) const {
    size_t column = 0;
    for (; column + 4 * kLanes <= dim; column += 4 * kLanes) Columns<M, 4>(row, column);
    if (column + 2 * kLanes <= dim) {
      Columns<M, 2>(row, column);
      column += 2 * kLanes;
    }
    if (column < dim) Columns<M, 1>(row, column);
  }

  template <size_t M, size_t N>
  HWY_INLINE void Columns(size_t row, size_t column) const {
    VF acc[M][N];
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      HWY_UNROLL(4)
      for (size_t n = 0; n < N; ++n)
        acc[m][n] = hn::LoadU(DF(), sums + (row + m) * dim + column + n * kLanes);
    }
    size_t u = begin / Format::kPack;
    if (begin % Format::kPack != 0) {
      // The pair's first token is hidden; and so is its second if that is the end.
      Half<M, N>(row, column, u++, 0xFFFF0000u, acc);
    }
    for (; u < end / Format::kPack; ++u) {
      typename Format::Units v[N];
      HWY_UNROLL(4)
      for (size_t n = 0; n < N; ++n) v[n] = Format::Load(Row(u), column + n * kLanes);
      Add<M, N>(row, u, v, acc);
    }
    if (end % Format::kPack != 0 && u == end / Format::kPack)
      Half<M, N>(row, column, u, 0x0000FFFFu, acc);
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      HWY_UNROLL(4)
      for (size_t n = 0; n < N; ++n)
        hn::StoreU(acc[m][n], DF(), sums + (row + m) * dim + column + n * kLanes);
    }
  }

  template <size_t M, size_t N>
  HWY_INLINE void Half(size_t row, size_t column, size_t u, uint32_t mask, VF (&acc)[M][N]) const {
    typename Format::Units v[N];
    HWY_UNROLL(4)
    for (size_t n = 0; n < N; ++n) v[n] = Format::LoadHalf(Row(u), column + n * kLanes, mask);
    Add<M, N>(row, u, v, acc);
  }

  template <size_t M, size_t N>
  HWY_INLINE void Add(size_t row, size_t u, const typename Format::Units (&v)[N],
                      VF (&acc)[M][N]) const {
    constexpr size_t kUnits = kPageTokens / Format::kPack;
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      HWY_UNROLL(4)
      for (size_t n = 0; n < N; ++n)
        acc[m][n] = Format::Dot(acc[m][n], v[n], probabilities[(row + m) * kUnits + u]);
    }
  }

  const uint8_t* Row(size_t u) const { return values + u * dim * 2 * Format::kPack; }
};

template <class Kernel, size_t M>
HWY_INLINE void RunLastRows(const Kernel& kernel, size_t row, size_t num_rows) {
  if constexpr (M > 0) {
    if (num_rows == M) {
      kernel.template Run<M>(row);
    } else {
      RunLastRows<Kernel, M - 1>(kernel, row, num_rows);
    }
  }
}

template <class Kernel>
HWY_INLINE void RunRows(const Kernel& kernel, size_t begin, size_t end) {
  for (; end - begin >= Kernel::kMaxRows; begin += Kernel::kMaxRows)
    kernel.template Run<Kernel::kMaxRows>(begin);
  RunLastRows<Kernel, Kernel::kMaxRows - 1>(kernel, begin, end - begin);
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // WEFT_KERNELS_ATTENTION_FORMATS_INL_H_
