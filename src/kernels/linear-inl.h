// One tile of rows times panels, for every weight format, written once for all instruction sets.
// A vector holds 16 outputs (or a slice of them on narrower machines); x is broadcast. Whatever the
// number of rows M, each output of each row goes through the same operations in the same order.
#include "hwy/highway.h"
#include "kernels/int8_dot-inl.h"
#include "kernels/isa.h"
#include "kernels/linear_tile.h"
#include "kernels/panel_layout.h"

WEFT_INT8_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DU8 = hn::Rebind<uint8_t, DF>;
using DI8 = hn::Rebind<int8_t, DF>;
using DHalf = hn::Rebind<hwy::float16_t, DF>;

// ---- codes of a block (panel_layout.h)

template <int kBits, int g>
HWY_INLINE VU Group(const uint8_t* codes) {
  const DU d;
  const auto vector = [&](size_t i) WEFT_ATTR {
    return hn::LoadU(d, reinterpret_cast<const uint32_t*>(codes + 64 * i));
  };
  const auto masked = [&](VU v, uint32_t byte)
                          WEFT_ATTR { return hn::And(v, hn::Set(d, byte * 0x01010101u)); };
  if constexpr (kBits == 8) {
    return vector(g);
  } else if constexpr (kBits >= 4) {
    const VU low = masked(g < 4 ? vector(g) : hn::ShiftRight<4>(vector(g - 4 * (g >= 4))), 15);
    if constexpr (kBits == 4) return low;
    if constexpr (kBits == 5) {  // bit g of vector 4 to bit 4
      const VU high = g <= 4 ? hn::ShiftLeft<(g <= 4 ? 4 - g : 0)>(vector(4))
                             : hn::ShiftRight<(g > 4 ? g - 4 : 0)>(vector(4));
      return hn::Or(low, masked(high, 16));
    }
    if constexpr (kBits == 6) {  // bits 2(g%4) of vector 4 + g/4 to bits 4-5
      constexpr int at = 2 * (g % 4);
      const VU high = at <= 4 ? hn::ShiftLeft<(at <= 4 ? 4 - at : 0)>(vector(4 + g / 4))
                              : hn::ShiftRight<(at > 4 ? at - 4 : 0)>(vector(4 + g / 4));
      return hn::Or(low, masked(high, 48));
    }
  } else {
    const VU low = masked(hn::ShiftRight<2 * (g % 4)>(vector(g / 4)), 3);
    if constexpr (kBits == 2) return low;
    if constexpr (kBits == 3) {  // bit g of vector 2 to bit 2
      const VU high = g <= 2 ? hn::ShiftLeft<(g <= 2 ? 2 - g : 0)>(vector(2))
                             : hn::ShiftRight<(g > 2 ? g - 2 : 0)>(vector(2));
      return hn::Or(low, masked(high, 4));
    }
  }
}

// ---- scales of a block

struct BlockScales {
  VF scale[2], min[2];  // the second of each only where 16 features have their own
};

HWY_INLINE VF LoadHalf(const uint8_t* p) {
  return hn::PromoteTo(DF(), hn::LoadU(DHalf(), reinterpret_cast<const hwy::float16_t*>(p)));
}

HWY_INLINE VI LoadBytes(const uint8_t* p) { return hn::PromoteTo(DI(), hn::LoadU(DU8(), p)); }

struct Pair {
  VI a, b;
};

HWY_INLINE Pair SixBitPairs(const uint8_t* pairs, size_t sub) {
  const DI d;
  const VI low = LoadBytes(pairs + sub * 16);
  VI high = LoadBytes(pairs + 128 + sub / 2 * 16);
  if (sub % 2 != 0) high = hn::ShiftRight<4>(high);
  const VI a = hn::Or(hn::And(low, hn::Set(d, 15)), hn::ShiftLeft<4>(hn::And(high, hn::Set(d, 3))));
  const VI b = hn::Or(hn::ShiftRight<4>(low), hn::ShiftLeft<2>(hn::And(high, hn::Set(d, 12))));
  return {a, b};
}

// `group`: the block's scale group, moved to this slice (f16 rows and byte rows differ in width, so
// `slice` is applied here).
template <DType kType>
HWY_INLINE BlockScales LoadScales(const uint8_t* group, size_t sub, size_t slice) {
  const DF df;
  const uint8_t* halves = group + slice * kLanes * 2;
  const uint8_t* bytes = group + slice * kLanes;
  BlockScales s;
  const VF d = LoadHalf(halves);
  if constexpr (kType == DType::kQ4_1 || kType == DType::kQ5_1) {
    s.scale[0] = d;
    s.min[0] = LoadHalf(halves + 32);
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const Pair p = SixBitPairs(bytes + 64, sub);
    s.scale[0] = hn::Mul(d, hn::ConvertTo(df, p.a));
    s.min[0] = hn::Neg(hn::Mul(LoadHalf(halves + 32), hn::ConvertTo(df, p.b)));
  } else if constexpr (kType == DType::kQ3_K) {
    const Pair p = SixBitPairs(bytes + 32, sub);
    const VI bias = hn::Set(DI(), 32);
    s.scale[0] = hn::Mul(d, hn::ConvertTo(df, hn::Sub(p.a, bias)));
    s.scale[1] = hn::Mul(d, hn::ConvertTo(df, hn::Sub(p.b, bias)));
  } else if constexpr (kType == DType::kQ6_K) {
    for (size_t half = 0; half < 2; ++half) {
      const auto* p = reinterpret_cast<const int8_t*>(bytes + 32 + (2 * sub + half) * 16);
      s.scale[half] = hn::Mul(d, hn::ConvertTo(df, hn::PromoteTo(DI(), hn::LoadU(DI8(), p))));
    }
  } else if constexpr (kType == DType::kQ2_K) {
    const VF dmin = hn::Neg(LoadHalf(halves + 32));
    for (size_t half = 0; half < 2; ++half) {
      const VI both = LoadBytes(bytes + 64 + (2 * sub + half) * 16);
      s.scale[half] = hn::Mul(d, hn::ConvertTo(df, hn::And(both, hn::Set(DI(), 15))));
      s.min[half] = hn::Mul(dmin, hn::ConvertTo(df, hn::ShiftRight<4>(both)));
    }
  } else {
    s.scale[0] = d;
  }
  return s;
}

// ---- storing

HWY_INLINE void Store(const TileCall& call, size_t row, size_t output, VF value) {
  const DF d;
  if (output >= call.num_outputs) return;
  float* out = call.out + row * call.out_stride + output;
  const size_t left = call.num_outputs - output;
  if (left >= kLanes) {
    if (call.bias != nullptr) value = hn::Add(value, hn::LoadU(d, call.bias + output));
    if (call.accumulate) value = hn::Add(hn::LoadU(d, out), value);
    hn::StoreU(value, d, out);
    return;
  }
  HWY_ALIGN float values[kLanes];
  hn::Store(value, d, values);
  for (size_t i = 0; i < left; ++i) {
    if (call.bias != nullptr) values[i] += call.bias[output + i];
    out[i] = call.accumulate ? out[i] + values[i] : values[i];
  }
}

// ---- the products

constexpr int Log2(int v) { return v <= 1 ? 0 : 1 + Log2(v / 2); }

// Starts the integer sums at -offset * (sum of the activations' codes).
template <int kOffset, size_t M, typename NegativeSum>
HWY_INLINE void StartSums(const QuantisedBlock* rows, NegativeSum negative_sum, VI (&sums)[M]) {
#pragma GCC unroll 8
  for (size_t m = 0; m < M; ++m) {
    if constexpr (kOffset == 0 || (kOffset == 128 && kDotTakesOffset8)) {
      sums[m] = hn::Zero(DI());
    } else {
      sums[m] = hn::ShiftLeft<Log2(kOffset)>(hn::Set(DI(), negative_sum(rows[m])));
    }
  }
}

#if HWY_TARGET == HWY_AVX2
// Groups kFirst ... kFirst + 3, for codes of at most 5 bits: the sums of four groups fit 16 bits
// (4 groups of 2 products of 31 x 127), so that they are widened once.
template <int kBits, int kFirst, size_t M>
HWY_INLINE void AddNarrowGroups(const uint8_t* codes, const QuantisedBlock* rows, VI (&sums)[M]) {
  static_assert(kBits <= 5);
  const VU w[4] = {Group<kBits, kFirst>(codes), Group<kBits, kFirst + 1>(codes),
                   Group<kBits, kFirst + 2>(codes), Group<kBits, kFirst + 3>(codes)};
#pragma GCC unroll 8
  for (size_t m = 0; m < M; ++m) {
    const auto products = [&](int i) WEFT_ATTR {
      const int32_t four = LoadScalar<int32_t>(rows[m].codes + 4 * (kFirst + i));
      return _mm256_maddubs_epi16(w[i].raw, _mm256_set1_epi32(four));
    };
    const __m256i sum16 = _mm256_add_epi16(_mm256_add_epi16(products(0), products(1)),
                                           _mm256_add_epi16(products(2), products(3)));
    sums[m] = VI{_mm256_add_epi32(sums[m].raw, _mm256_madd_epi16(sum16, _mm256_set1_epi16(1)))};
    KeepOrder(sums[m]);
  }
}
#endif

// Adds groups kFirst ... kFirst + 3. Rows innermost: M independent sums hide the latency of the dot
// product, and a group's codes need one register.
template <int kBits, int kFirst, size_t M>
HWY_INLINE void AddGroups(const uint8_t* codes, const QuantisedBlock* rows, VI (&sums)[M]) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (kBits <= 5) return AddNarrowGroups<kBits, kFirst, M>(codes, rows, sums);
#endif
  const auto add = [&](VU w, int g) WEFT_ATTR {
#pragma GCC unroll 8
    for (size_t m = 0; m < M; ++m) {
      const VI four = hn::Set(DI(), LoadScalar<int32_t>(rows[m].codes + 4 * g));
      sums[m] = Dot4<kBits>(sums[m], w, four);
      KeepOrder(sums[m]);
    }
  };
  add(Group<kBits, kFirst>(codes), kFirst);
  add(Group<kBits, kFirst + 1>(codes), kFirst + 1);
  add(Group<kBits, kFirst + 2>(codes), kFirst + 2);
  add(Group<kBits, kFirst + 3>(codes), kFirst + 3);
}

// With more than two rows the products leave the hardware's own prefetcher behind, and weights are
// asked for this far ahead, into the second-level cache. With one or two it depends on the CPU. (In
// memory, GB/s. Zen 4, q4_0 and q8_0: 1 row 30 and 31 if not asked, 23 and 20 if asked; 4 rows 14 and
// 20, 23 and 24. Emerald Rapids, one core, 1 row: 8 and 10 if not, 10 and 12 if asked; two cores 15
// and 17, 19 and 23.)
constexpr size_t kPrefetchBytes = 8192;

template <size_t M>
HWY_INLINE void Prefetch(const TileCall& call, const uint8_t* p, size_t bytes) {
  if (M > 2 || call.ask_ahead) {
    for (size_t line = 0; line < bytes; line += 64)
      __builtin_prefetch(p + kPrefetchBytes + line, 0, 2);
  }
}

// acc += one block of 32 features.
template <DType kType, size_t M>
HWY_INLINE void AddBlock(const uint8_t* codes, const BlockScales& s, const QuantisedBlock* rows,
                         VF (&acc)[M]) {
  constexpr PanelFormat f = panel_format(kType);
  const DF df;
  if constexpr (f.sub_blocks) {
    VI first[M], second[M];
    StartSums<f.offset, M>(
        rows, [](const QuantisedBlock& row) WEFT_ATTR { return row.negative_sum16[0]; }, first);
    AddGroups<f.bits, 0, M>(codes, rows, first);
    StartSums<f.offset, M>(
        rows, [](const QuantisedBlock& row) WEFT_ATTR { return row.negative_sum16[1]; }, second);
    AddGroups<f.bits, 4, M>(codes, rows, second);
#pragma GCC unroll 8
    for (size_t m = 0; m < M; ++m) {
      const VF product = hn::MulAdd(hn::ConvertTo(df, second[m]), s.scale[1],
                                    hn::Mul(hn::ConvertTo(df, first[m]), s.scale[0]));
      acc[m] = hn::MulAdd(product, hn::Set(df, rows[m].scale), acc[m]);
    }
  } else {
    VI sums[M];
    StartSums<f.offset, M>(
        rows, [](const QuantisedBlock& row) WEFT_ATTR { return row.negative_sum; }, sums);
    AddGroups<f.bits, 0, M>(codes, rows, sums);
    AddGroups<f.bits, 4, M>(codes, rows, sums);
#pragma GCC unroll 8
    for (size_t m = 0; m < M; ++m) {
      const VF product = hn::Mul(hn::ConvertTo(df, sums[m]), s.scale[0]);
      acc[m] = hn::MulAdd(product, hn::Set(df, rows[m].scale), acc[m]);
    }
  }
#pragma GCC unroll 8
  for (size_t m = 0; m < M; ++m) {
    if constexpr (f.has_min && f.sub_blocks) {
      acc[m] = hn::MulAdd(s.min[0], hn::Set(df, rows[m].scaled_sum16[0]), acc[m]);
      acc[m] = hn::MulAdd(s.min[1], hn::Set(df, rows[m].scaled_sum16[1]), acc[m]);
    } else if constexpr (f.has_min) {
      acc[m] = hn::MulAdd(s.min[0], hn::Set(df, rows[m].scaled_sum), acc[m]);
    }
  }
}

template <DType kType, size_t M>
void MultiplyQuantised(const TileCall& call) {
  constexpr PanelFormat f = panel_format(kType);
  const size_t num_groups = call.in_features / kBlockFeatures / f.blocks_per_scale;
  for (size_t p = 0; p < call.num_panels; ++p) {
    for (size_t slice = 0; slice < kSlices; ++slice) {
      const uint8_t* group = call.panels + p * call.panel_bytes;
      const auto* rows = static_cast<const QuantisedBlock*>(call.x);
      VF acc[M];
      for (size_t m = 0; m < M; ++m) acc[m] = hn::Zero(DF());
      for (size_t g = 0; g < num_groups; ++g) {
        Prefetch<M>(call, group, f.scale_bytes);
        const uint8_t* codes = group + f.scale_bytes;
        for (size_t sub = 0; sub < f.blocks_per_scale; ++sub) {
          Prefetch<M>(call, codes, code_bytes(f.bits));
          AddBlock<kType, M>(codes + slice * kLanes * 4, LoadScales<kType>(group, sub, slice), rows,
                             acc);
          codes += code_bytes(f.bits);
          rows += M;
        }
        group += group_bytes(f);
      }
      for (size_t m = 0; m < M; ++m) Store(call, m, p * kPanelOutputs + slice * kLanes, acc[m]);
    }
  }
}

// Panels taken side by side when rows are few, so that enough independent sums hide the latency of
// the multiply-add.
constexpr size_t PanelsAtOnce(size_t rows) { return rows >= 8 ? 1 : 8 / rows; }

template <bool kHalf, size_t M, size_t P>
HWY_INLINE void MultiplyFloatPanels(const TileCall& call, size_t first_panel) {
  constexpr size_t kBytes = kHalf ? 2 : 4;
  const DF df;
  for (size_t slice = 0; slice < kSlices; ++slice) {
    const auto* x = static_cast<const float*>(call.x);
    const uint8_t* w = call.panels + first_panel * call.panel_bytes + slice * kLanes * kBytes;
    VF acc[P][M];
    for (size_t p = 0; p < P; ++p)
      for (size_t m = 0; m < M; ++m) acc[p][m] = hn::Zero(df);
    for (size_t k = 0; k < call.in_features; ++k) {
#pragma GCC unroll 8
      for (size_t p = 0; p < P; ++p) {
        VF weight;
        if constexpr (kHalf) {
          weight = LoadHalf(w + p * call.panel_bytes);
        } else {
          weight = hn::Load(df, reinterpret_cast<const float*>(w + p * call.panel_bytes));
        }
#pragma GCC unroll 8
        for (size_t m = 0; m < M; ++m) acc[p][m] = hn::MulAdd(weight, hn::Set(df, x[m]), acc[p][m]);
      }
      w += kPanelOutputs * kBytes;
      x += M;
    }
    for (size_t p = 0; p < P; ++p)
      for (size_t m = 0; m < M; ++m)
        Store(call, m, (first_panel + p) * kPanelOutputs + slice * kLanes, acc[p][m]);
  }
}

template <bool kHalf, size_t M>
void MultiplyFloat(const TileCall& call) {
  constexpr size_t P = PanelsAtOnce(M);
  size_t p = 0;
  for (; p + P <= call.num_panels; p += P) MultiplyFloatPanels<kHalf, M, P>(call, p);
  for (; p < call.num_panels; ++p) MultiplyFloatPanels<kHalf, M, 1>(call, p);
}

// bf16 without the instruction: a pair is two f32 multiply-adds, low half first.
struct EmulatedBf16 {
  static HWY_INLINE VF Dot(VF acc, VU weights, uint32_t x) {
    const DF df;
    const DU du;
    const VF low = hn::BitCast(df, hn::ShiftLeft<16>(weights));
    const VF high = hn::BitCast(df, hn::And(weights, hn::Set(du, 0xFFFF0000u)));
    const VU pair = hn::Set(du, x);
    acc = hn::MulAdd(high, hn::BitCast(df, hn::And(pair, hn::Set(du, 0xFFFF0000u))), acc);
    return hn::MulAdd(low, hn::BitCast(df, hn::ShiftLeft<16>(pair)), acc);
  }
};

#if HWY_TARGET == HWY_AVX3_DL
// Repeats WEFT_TARGET: with clang an attribute of its own replaces the pushed one.
#define WEFT_BF16_ATTR __attribute__((target(WEFT_TARGET ",avx512bf16")))
struct NativeBf16 {
  static HWY_INLINE WEFT_BF16_ATTR VF Dot(VF acc, VU weights, uint32_t x) {
    return VF{_mm512_dpbf16_ps(acc.raw, reinterpret_cast<__m512bh>(weights.raw),
                               reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(x))))};
  }
};
#else
#define WEFT_BF16_ATTR
#endif

template <typename Bf16, size_t M, size_t P>
HWY_INLINE WEFT_BF16_ATTR void MultiplyBf16Panels(const TileCall& call, size_t first_panel) {
  const DF df;
  for (size_t slice = 0; slice < kSlices; ++slice) {
    const auto* x = static_cast<const uint8_t*>(call.x);
    const uint8_t* w = call.panels + first_panel * call.panel_bytes + slice * kLanes * 4;
    VF acc[P][M];
    for (size_t p = 0; p < P; ++p)
      for (size_t m = 0; m < M; ++m) acc[p][m] = hn::Zero(df);
    for (size_t pair = 0; pair < (call.in_features + 1) / 2; ++pair) {
#pragma GCC unroll 8
      for (size_t p = 0; p < P; ++p) {
        const VU weights =
            hn::Load(DU(), reinterpret_cast<const uint32_t*>(w + p * call.panel_bytes));
#pragma GCC unroll 8
        for (size_t m = 0; m < M; ++m)
          acc[p][m] = Bf16::Dot(acc[p][m], weights, LoadScalar<uint32_t>(x + 4 * m));
      }
      w += kPanelOutputs * 4;
      x += 4 * M;
    }
    for (size_t p = 0; p < P; ++p)
      for (size_t m = 0; m < M; ++m)
        Store(call, m, (first_panel + p) * kPanelOutputs + slice * kLanes, acc[p][m]);
  }
}

template <typename Bf16, size_t M>
WEFT_BF16_ATTR void MultiplyBf16(const TileCall& call) {
  constexpr size_t P = PanelsAtOnce(M);
  size_t p = 0;
  for (; p + P <= call.num_panels; p += P) MultiplyBf16Panels<Bf16, M, P>(call, p);
  for (; p < call.num_panels; ++p) MultiplyBf16Panels<Bf16, M, 1>(call, p);
}

// ---- converting x

// 32 values at `x` to int8 with one scale.
HWY_INLINE void QuantiseBlock(const float* x, QuantisedBlock& block) {
  const DF df;
  [[maybe_unused]] const DI di;
  VF largest = hn::Zero(df);
  for (size_t i = 0; i < 32; i += kLanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(df, x + i)));
  const float amax = hn::GetLane(hn::MaxOfLanes(df, largest));
  block.scale = amax / 127.0f;
  const VF inverse = hn::Set(df, amax > 0 ? 127.0f / amax : 0.0f);
  const auto code = [&](size_t i) WEFT_ATTR {
    return hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), inverse));
  };
#if HWY_TARGET == HWY_AVX3_DL
  const __m256i codes =
      _mm256_set_m128i(_mm512_cvtsepi32_epi8(code(16).raw), _mm512_cvtsepi32_epi8(code(0).raw));
  _mm256_store_si256(reinterpret_cast<__m256i*>(block.codes), codes);
  // Sums of four, then of eight and sixteen within each half. (Not vpdpbusd: at 256 bits the
  // compiler would take its VEX form, which Zen 4 lacks.)
  __m256i sum =
      _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes), _mm256_set1_epi16(1));
  sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4E));
  sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xB1));
  const int32_t totals[2] = {_mm256_extract_epi32(sum, 0), _mm256_extract_epi32(sum, 4)};
#else
  int32_t totals[2];
  for (size_t half = 0; half < 2; ++half) {
    VI sum = hn::Zero(di);
    for (size_t i = 16 * half; i < 16 * half + 16; i += kLanes) {
      sum = hn::Add(sum, code(i));
      hn::StoreU(hn::DemoteTo(DI8(), code(i)), DI8(), block.codes + i);
    }
    totals[half] = hn::GetLane(hn::SumOfLanes(di, sum));
  }
#endif
  for (size_t half = 0; half < 2; ++half) {
    block.negative_sum16[half] = -totals[half];
    block.scaled_sum16[half] = block.scale * static_cast<float>(totals[half]);
  }
  block.negative_sum = -(totals[0] + totals[1]);
  block.scaled_sum = block.scale * static_cast<float>(totals[0] + totals[1]);
}

void TileToInt8(const float* x, size_t stride, size_t features, size_t rows, void* tile) {
  auto* out = static_cast<QuantisedBlock*>(tile);
  for (size_t b = 0; b < features / kBlockFeatures; ++b)
    for (size_t m = 0; m < rows; ++m)
      QuantiseBlock(x + m * stride + b * kBlockFeatures, out[b * rows + m]);
}

// Round to nearest even, by integers; NaN stays NaN.
HWY_INLINE uint16_t RoundToBf16(float value) {
  const uint32_t bits = LoadScalar<uint32_t>(&value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 64);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <size_t M>
void RowsToBf16(const float* x, size_t stride, size_t features, uint16_t* out) {
  for (size_t k = 0; k + 1 < features; k += 2) {
    for (size_t m = 0; m < M; ++m) {
      *out++ = RoundToBf16(x[m * stride + k]);
      *out++ = RoundToBf16(x[m * stride + k + 1]);
    }
  }
  if (features % 2 == 0) return;
  for (size_t m = 0; m < M; ++m) {
    *out++ = RoundToBf16(x[m * stride + features - 1]);
    *out++ = 0;
  }
}

void TileToBf16(const float* x, size_t stride, size_t features, size_t rows, void* tile) {
  auto* out = static_cast<uint16_t*>(tile);
  switch (rows) {
    case 1:
      return RowsToBf16<1>(x, stride, features, out);
    case 2:
      return RowsToBf16<2>(x, stride, features, out);
    case 4:
      return RowsToBf16<4>(x, stride, features, out);
    default:
      return RowsToBf16<8>(x, stride, features, out);
  }
}

template <size_t M>
void RowsToF32(const float* x, size_t stride, size_t features, float* out) {
  for (size_t k = 0; k < features; ++k)
    for (size_t m = 0; m < M; ++m) *out++ = x[m * stride + k];
}

void TileToF32(const float* x, size_t stride, size_t features, size_t rows, void* tile) {
  auto* out = static_cast<float*>(tile);
  switch (rows) {
    case 1:
      return RowsToF32<1>(x, stride, features, out);
    case 2:
      return RowsToF32<2>(x, stride, features, out);
    case 4:
      return RowsToF32<4>(x, stride, features, out);
    default:
      return RowsToF32<8>(x, stride, features, out);
  }
}

// ---- the table

template <DType kType>
constexpr std::array<TileKernel, 4> QuantisedKernels() {
  return {MultiplyQuantised<kType, 1>, MultiplyQuantised<kType, 2>, MultiplyQuantised<kType, 4>,
          MultiplyQuantised<kType, 8>};
}

template <bool kHalf>
constexpr std::array<TileKernel, 4> FloatKernels() {
  return {MultiplyFloat<kHalf, 1>, MultiplyFloat<kHalf, 2>, MultiplyFloat<kHalf, 4>,
          MultiplyFloat<kHalf, 8>};
}

template <typename Bf16>
constexpr std::array<TileKernel, 4> Bf16Kernels() {
  return {MultiplyBf16<Bf16, 1>, MultiplyBf16<Bf16, 2>, MultiplyBf16<Bf16, 4>,
          MultiplyBf16<Bf16, 8>};
}

TileKernels MakeTileKernels() {
  TileKernels t;
  const auto set = [&](DType type, std::array<TileKernel, 4> kernels) {
    t.multiply[static_cast<size_t>(type)] = kernels;
  };
  set(DType::kF32, FloatKernels<false>());
  set(DType::kF16, FloatKernels<true>());
  set(DType::kBF16, Bf16Kernels<EmulatedBf16>());
#if HWY_TARGET == HWY_AVX3_DL
  if (has_native_bf16()) set(DType::kBF16, Bf16Kernels<NativeBf16>());
#endif
  set(DType::kQ4_0, QuantisedKernels<DType::kQ4_0>());
  set(DType::kQ4_1, QuantisedKernels<DType::kQ4_1>());
  set(DType::kQ5_0, QuantisedKernels<DType::kQ5_0>());
  set(DType::kQ5_1, QuantisedKernels<DType::kQ5_1>());
  set(DType::kQ8_0, QuantisedKernels<DType::kQ8_0>());
  set(DType::kQ2_K, QuantisedKernels<DType::kQ2_K>());
  set(DType::kQ3_K, QuantisedKernels<DType::kQ3_K>());
  set(DType::kQ4_K, QuantisedKernels<DType::kQ4_K>());
  set(DType::kQ5_K, QuantisedKernels<DType::kQ5_K>());
  set(DType::kQ6_K, QuantisedKernels<DType::kQ6_K>());
  t.to_int8 = TileToInt8;
  t.to_bf16 = TileToBf16;
  t.to_f32 = TileToF32;
  return t;
}

#undef WEFT_BF16_ATTR

}  // namespace weft::kernels::HWY_NAMESPACE
WEFT_INT8_AFTER_NAMESPACE();
