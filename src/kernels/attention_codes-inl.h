// How attention reads pages of the int formats, without widening them in memory. With x = c s + z,
//   q . k          = s (q . c) + z sum(q)               per token and group of features,
//   sum_t p_t v_t  = sum_t (p_t s_t) c_t + sum_t p_t z_t    per group.
// Chunks of 64 bytes hold 16 columns (tokens of K, features of V) of 4 rows, so that both products
// run down the lanes and the codes go into the dot product with no more than a shift and a mask.
//
// AVX-512: queries and weights are 16-bit fixed-point numbers, each two int8 (x = 256 high + low),
// and VPDPBUSD multiplies codes by either half; sums of codes are exact. Elsewhere they are f32.

#if defined(WEFT_KERNELS_ATTENTION_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_KERNELS_ATTENTION_CODES_INL_H_
#undef WEFT_KERNELS_ATTENTION_CODES_INL_H_
#else
#define WEFT_KERNELS_ATTENTION_CODES_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/attention_formats-inl.h"
#include "kernels/attention_tile.h"

WEFT_ATTENTION_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One core's room for it (code_floats()). R rows.
struct CodeScratch {
  uint32_t* queries;  // AVX-512: (R, 2, dim / 4), four int8 each: the high halves, then the low
  float* steps;       // AVX-512: (R) f32 = step x fixed-point
  float* sums;        // (R, num_groups) of the queries
  float* weights;     // (R, 32), of one group; AVX-512: (R, 2, 8) of four int8
  float* weight_steps;
  float* offsets;  // (R) sums of p z

  CodeScratch() = default;
  CodeScratch(float* p, size_t dim)
      : queries(reinterpret_cast<uint32_t*>(p)),
        steps(p + kMaxTileRows * (dim / 2)),
        sums(steps + kMaxTileRows),
        weights(sums + kMaxTileRows * (dim / 16)),
        weight_steps(weights + kMaxTileRows * kPageTokens),
        offsets(weight_steps + kMaxTileRows) {}
};

constexpr size_t kCodeRows = kLanes == 16 ? 6 : 3;

// Quad `i` of those that share a chunk: four codes in each 32 bit.
template <size_t kBits>
HWY_INLINE VU QuadOf(VU chunk, size_t i) {
  if constexpr (kBits == 8) return chunk;
  const VU mask = hn::Set(DU(), kBits == 4 ? 0x0F0F0F0Fu : 0x03030303u);
  if (i == 0) return hn::And(chunk, mask);
  if (kBits == 4 || i == 2) return hn::And(hn::ShiftRight<4>(chunk), mask);
  return hn::And(i == 1 ? hn::ShiftRight<2>(chunk) : hn::ShiftRight<6>(chunk), mask);
}

HWY_INLINE VU LoadChunk(const uint8_t* p) {
  return hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(p));
}

HWY_INLINE VF LoadHalves(const uint8_t* p, size_t i) {
  const hn::Rebind<hwy::float16_t, DF> d;
  return hn::PromoteTo(DF(), hn::LoadU(d, reinterpret_cast<const hwy::float16_t*>(p) + i));
}

// s and z of one vector of tokens, from a group's metadata.
HWY_INLINE VF LoadStep(const uint8_t* meta, size_t token, float factor) {
  return hn::Mul(LoadHalves(meta, token), hn::Set(DF(), factor));
}
HWY_INLINE VF LoadZero(const uint8_t* meta, size_t token) {
  return LoadHalves(meta + kPageTokens * sizeof(uint16_t), token);
}
constexpr size_t kGroupMetaBytes = 2 * kPageTokens * sizeof(uint16_t);

#undef WEFT_ATTENTION_FIXED_POINT
#if HWY_TARGET == HWY_AVX3_DL
#define WEFT_ATTENTION_FIXED_POINT 1
using VI = hn::Vec<DI>;

// The largest fixed-point number, 127 * 256 + 127: both its halves fit int8.
constexpr float kFixedMax = 32639;

// 16 numbers of at most kFixedMax as int8 halves.
HWY_INLINE void StoreHalves(VI x, void* high, void* low) {
  const __m512i l = _mm512_srai_epi32(_mm512_slli_epi32(x.raw, 24), 24);
  const __m512i h = _mm512_srai_epi32(_mm512_sub_epi32(x.raw, l), 8);
  _mm_storeu_si128(static_cast<__m128i*>(high), _mm512_cvtepi32_epi8(h));
  _mm_storeu_si128(static_cast<__m128i*>(low), _mm512_cvtepi32_epi8(l));
}

HWY_INLINE VI DotCodes(VI acc, VU codes, uint32_t x) {
  return VI{_mm512_dpbusd_epi32(acc.raw, codes.raw, _mm512_set1_epi32(static_cast<int>(x)))};
}

HWY_INLINE VF Joined(VI high, VI low) {
  return hn::ConvertTo(DF(), hn::Add(hn::ShiftLeft<8>(high), low));
}
#else
#define WEFT_ATTENTION_FIXED_POINT 0

// Code `i` of the four in each lane.
HWY_INLINE VF CodeOf(VU quad, size_t i) {
  VU code = quad;
  if (i == 1) code = hn::ShiftRight<8>(quad);
  if (i == 2) code = hn::ShiftRight<16>(quad);
  if (i == 3) return hn::ConvertTo(DF(), hn::BitCast(DI(), hn::ShiftRight<24>(quad)));
  return hn::ConvertTo(DF(), hn::BitCast(DI(), hn::And(code, hn::Set(DU(), 0xFFu))));
}
#endif

// What a query brings to int pages.
HWY_INLINE void MakeQueryCodes(const KvShape& kv, const float* queries, size_t rows,
                               const CodeScratch& scratch) {
  const size_t dim = kv.head_dim, group = kv.group_size(), groups = kv.num_groups();
  for (size_t r = 0; r < rows; ++r) {
    const float* q = queries + r * dim;
    for (size_t g = 0; g < groups; ++g) {
      VF sum = hn::Zero(DF());
      for (size_t i = 0; i < group; i += kLanes)
        sum = hn::Add(sum, hn::LoadU(DF(), q + g * group + i));
      scratch.sums[r * groups + g] = hn::GetLane(hn::SumOfLanes(DF(), sum));
    }
#if WEFT_ATTENTION_FIXED_POINT
    VF most = hn::Zero(DF());
    for (size_t i = 0; i < dim; i += kLanes) most = hn::Max(most, hn::Abs(hn::LoadU(DF(), q + i)));
    const float largest = hn::GetLane(hn::MaxOfLanes(DF(), most));
    // So small that its inverse overflows: as good as zero.
    const float inverse = largest < 1e-30f ? 0.0f : kFixedMax / largest;
    scratch.steps[r] = largest / kFixedMax;
    auto* high = reinterpret_cast<uint8_t*>(scratch.queries + r * (dim / 2));
    for (size_t i = 0; i < dim; i += kLanes)
      StoreHalves(hn::NearestInt(hn::Mul(hn::LoadU(DF(), q + i), hn::Set(DF(), inverse))), high + i,
                  high + dim + i);
#endif
  }
}

template <size_t kBits>
struct ScoresOfCodes {
  const KvShape& kv;
  const uint8_t *keys, *meta;
  const float* queries;
  const CodeScratch& scratch;
  float factor;   // of the step
  float* scores;  // (rows, 32)
  static constexpr size_t kMaxRows = kCodeRows;
  static constexpr size_t kQuads = 8 / kBits;  // of a chunk

  // Scores += this group's: s (q . c) + z sum(q), one vector of tokens.
  HWY_INLINE void Add(size_t row, size_t g, size_t token, VF dot) const {
    const uint8_t* of_group = meta + g * kGroupMetaBytes;
    float* out = scores + row * kPageTokens + token;
    const VF sum = hn::Set(DF(), scratch.sums[row * kv.num_groups() + g]);
    const VF offset = hn::Mul(LoadZero(of_group, token), sum);
    const VF score = hn::MulAdd(LoadStep(of_group, token, factor), dot, offset);
    hn::StoreU(g == 0 ? score : hn::Add(hn::LoadU(DF(), out), score), DF(), out);
  }

#if WEFT_ATTENTION_FIXED_POINT
  template <size_t M>
  HWY_INLINE void Run(size_t row) const {
    const size_t dim = kv.head_dim, group = kv.group_size();
    const uint32_t* q = scratch.queries + row * (dim / 2);
    for (size_t g = 0; g < kv.num_groups(); ++g) {
      VI high[M][2], low[M][2];
      HWY_UNROLL(8)
      for (size_t m = 0; m < M; ++m)
        high[m][0] = high[m][1] = low[m][0] = low[m][1] = hn::Zero(DI());
      for (size_t quad = g * group / 4; quad < (g + 1) * group / 4; quad += kQuads) {
        const uint8_t* chunk = keys + quad / kQuads * 64;
        const VU x0 = LoadChunk(chunk), x1 = LoadChunk(chunk + dim * 2 * kBits);
        HWY_UNROLL(4)
        for (size_t i = 0; i < kQuads; ++i) {
          const VU c0 = QuadOf<kBits>(x0, i), c1 = QuadOf<kBits>(x1, i);
          HWY_UNROLL(8)
          for (size_t m = 0; m < M; ++m) {
            const uint32_t qh = q[m * (dim / 2) + quad + i];
            const uint32_t ql = q[m * (dim / 2) + dim / 4 + quad + i];
            high[m][0] = DotCodes(high[m][0], c0, qh);
            high[m][1] = DotCodes(high[m][1], c1, qh);
            low[m][0] = DotCodes(low[m][0], c0, ql);
            low[m][1] = DotCodes(low[m][1], c1, ql);
          }
        }
      }
      HWY_UNROLL(8)
      for (size_t m = 0; m < M; ++m) {
        const VF step = hn::Set(DF(), scratch.steps[row + m]);
        Add(row + m, g, 0, hn::Mul(Joined(high[m][0], low[m][0]), step));
        Add(row + m, g, kLanes, hn::Mul(Joined(high[m][1], low[m][1]), step));
      }
    }
  }
#else
  template <size_t M>
  HWY_INLINE void Run(size_t row) const {
    const size_t dim = kv.head_dim, group = kv.group_size();
    const float* q = queries + row * dim;
    for (size_t g = 0; g < kv.num_groups(); ++g) {
      for (size_t t = 0; t < kPageTokens; t += kLanes) {
        VF acc[M];
        HWY_UNROLL(8)
        for (size_t m = 0; m < M; ++m) acc[m] = hn::Zero(DF());
        const uint8_t* tokens = keys + t / 16 * dim * 2 * kBits + t % 16 * 4;
        for (size_t quad = g * group / 4; quad < (g + 1) * group / 4; quad += kQuads) {
          const VU chunk = LoadChunk(tokens + quad / kQuads * 64);
          HWY_UNROLL(4)
          for (size_t i = 0; i < kQuads; ++i) {
            const VU codes = QuadOf<kBits>(chunk, i);
            HWY_UNROLL(4)
            for (size_t j = 0; j < 4; ++j) {
              const VF code = CodeOf(codes, j);
              HWY_UNROLL(8)
              for (size_t m = 0; m < M; ++m) {
                const VF x = hn::Set(DF(), q[m * dim + 4 * (quad + i) + j]);
                acc[m] = hn::MulAdd(code, x, acc[m]);
              }
            }
          }
        }
        HWY_UNROLL(8)
        for (size_t m = 0; m < M; ++m) Add(row + m, g, t, acc[m]);
      }
    }
  }
#endif
};

HWY_INLINE void ScoreCodes(KvFormat format, const KvShape& kv, const uint8_t* keys,
                           const uint8_t* meta, const float* queries, const CodeScratch& scratch,
                           size_t rows, float* scores) {
  const float factor = step_factor(format);
  if (format == KvFormat::kInt8)
    return RunRows(ScoresOfCodes<8>{kv, keys, meta, queries, scratch, factor, scores}, 0, rows);
  if (format == KvFormat::kInt4)
    return RunRows(ScoresOfCodes<4>{kv, keys, meta, queries, scratch, factor, scores}, 0, rows);
  RunRows(ScoresOfCodes<2>{kv, keys, meta, queries, scratch, factor, scores}, 0, rows);
}

// ---- values

// Weights p s of one row and group, 0 for hidden tokens (whose metadata may be anything); their sum
// of p z.
HWY_INLINE void MakeWeights(const float* p, const uint8_t* meta, float factor, Range seen,
                            size_t row, const CodeScratch& scratch) {
  VF weights[kPageTokens / kLanes];
  VF offset = hn::Zero(DF());
  for (size_t i = 0; i < kPageTokens / kLanes; ++i) {
    const size_t t = i * kLanes;
    VF probability = hn::LoadU(DF(), p + t), step = LoadStep(meta, t, factor);
    VF zero = LoadZero(meta, t);
    if (seen.begin != 0 || seen.end != kPageTokens) {
      const auto token = hn::Iota(DI(), static_cast<int32_t>(t));
      const auto after = hn::Gt(token, hn::Set(DI(), static_cast<int32_t>(seen.begin) - 1));
      const auto before = hn::Lt(token, hn::Set(DI(), static_cast<int32_t>(seen.end)));
      const auto visible = hn::RebindMask(DF(), hn::And(after, before));
      probability = hn::IfThenElseZero(visible, probability);
      step = hn::IfThenElseZero(visible, step);
      zero = hn::IfThenElseZero(visible, zero);
    }
    weights[i] = hn::Mul(probability, step);
    offset = hn::MulAdd(probability, zero, offset);
  }
  scratch.offsets[row] = hn::GetLane(hn::SumOfLanes(DF(), offset));
#if WEFT_ATTENTION_FIXED_POINT
  const float largest = hn::GetLane(hn::MaxOfLanes(DF(), hn::Max(weights[0], weights[1])));
  // So small that its inverse overflows: as good as zero.
  const VF inverse = hn::Set(DF(), largest < 1e-30f ? 0.0f : kFixedMax / largest);
  scratch.weight_steps[row] = largest / kFixedMax;
  auto* high = reinterpret_cast<uint8_t*>(scratch.weights + row * 16);
  for (size_t i = 0; i < 2; ++i)
    StoreHalves(hn::NearestInt(hn::Mul(weights[i], inverse)), high + i * 16, high + 32 + i * 16);
#else
  for (size_t i = 0; i < kPageTokens / kLanes; ++i)
    hn::StoreU(weights[i], DF(), scratch.weights + row * kPageTokens + i * kLanes);
#endif
}

// sums += weights x values over the features [begin, end) of one group.
template <size_t kBits>
struct WeighedCodes {
  const uint8_t* values;
  size_t dim, begin, end;
  const CodeScratch& scratch;
  float* sums;  // (rows, dim)
  static constexpr size_t kMaxRows = kCodeRows;
  static constexpr size_t kQuads = 8 / kBits, kChunks = kBits;  // of 16 features

  template <size_t M>
  HWY_INLINE void Run(size_t row) const {
    size_t column = begin;
    for (; column + 2 * kStep <= end; column += 2 * kStep) Columns<M, 2>(row, column);
    if (column < end) Columns<M, 1>(row, column);
  }

#if WEFT_ATTENTION_FIXED_POINT
  static constexpr size_t kStep = 16;

  template <size_t M, size_t N>
  HWY_INLINE void Columns(size_t row, size_t column) const {
    const auto* weights = reinterpret_cast<const uint32_t*>(scratch.weights) + row * 16;
    VI high[M][N], low[M][N];
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      HWY_UNROLL(2)
      for (size_t n = 0; n < N; ++n) high[m][n] = low[m][n] = hn::Zero(DI());
    }
    const uint8_t* chunks = values + column / 16 * kChunks * 64;
    HWY_UNROLL(8)
    for (size_t j = 0; j < kChunks; ++j) {
      VU x[N];
      HWY_UNROLL(2)
      for (size_t n = 0; n < N; ++n) x[n] = LoadChunk(chunks + (n * kChunks + j) * 64);
      HWY_UNROLL(4)
      for (size_t i = 0; i < kQuads; ++i) {
        HWY_UNROLL(2)
        for (size_t n = 0; n < N; ++n) {
          const VU codes = QuadOf<kBits>(x[n], i);
          HWY_UNROLL(8)
          for (size_t m = 0; m < M; ++m) {
            high[m][n] = DotCodes(high[m][n], codes, weights[m * 16 + j * kQuads + i]);
            low[m][n] = DotCodes(low[m][n], codes, weights[m * 16 + 8 + j * kQuads + i]);
          }
        }
      }
    }
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      const VF step = hn::Set(DF(), scratch.weight_steps[row + m]);
      const VF offset = hn::Set(DF(), scratch.offsets[row + m]);
      HWY_UNROLL(2)
      for (size_t n = 0; n < N; ++n) {
        float* out = sums + (row + m) * dim + column + n * 16;
        const VF added = hn::MulAdd(Joined(high[m][n], low[m][n]), step, offset);
        hn::StoreU(hn::Add(hn::LoadU(DF(), out), added), DF(), out);
      }
    }
  }
#else
  static constexpr size_t kStep = kLanes;

  template <size_t M, size_t N>
  HWY_INLINE void Columns(size_t row, size_t column) const {
    const float* weights = scratch.weights + row * kPageTokens;
    VF acc[M][N];
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      HWY_UNROLL(2)
      for (size_t n = 0; n < N; ++n) acc[m][n] = hn::Set(DF(), scratch.offsets[row + m]);
    }
    for (size_t j = 0; j < kChunks; ++j) {
      HWY_UNROLL(2)
      for (size_t n = 0; n < N; ++n) {
        const size_t i = column + n * kLanes;
        const VU chunk = LoadChunk(values + (i / 16 * kChunks + j) * 64 + i % 16 * 4);
        HWY_UNROLL(4)
        for (size_t quad = 0; quad < kQuads; ++quad) {
          const VU codes = QuadOf<kBits>(chunk, quad);
          HWY_UNROLL(4)
          for (size_t k = 0; k < 4; ++k) {
            const VF code = CodeOf(codes, k);
            HWY_UNROLL(8)
            for (size_t m = 0; m < M; ++m) {
              const float w = weights[m * kPageTokens + 4 * (j * kQuads + quad) + k];
              acc[m][n] = hn::MulAdd(code, hn::Set(DF(), w), acc[m][n]);
            }
          }
        }
      }
    }
    HWY_UNROLL(8)
    for (size_t m = 0; m < M; ++m) {
      HWY_UNROLL(2)
      for (size_t n = 0; n < N; ++n) {
        float* out = sums + (row + m) * dim + column + n * kLanes;
        hn::StoreU(hn::Add(hn::LoadU(DF(), out), acc[m][n]), DF(), out);
      }
    }
  }
#endif
};

// Sums of the rows [begin, end), whose probabilities are p (rows, 32), += what they see of a page.
HWY_INLINE void AddCodes(KvFormat format, const KvShape& kv, const uint8_t* values,
                         const uint8_t* meta, const float* p, Range seen,
                         const CodeScratch& scratch, size_t begin, size_t end, float* sums) {
  const size_t dim = kv.head_dim, group = kv.group_size();
  for (size_t g = 0; g < kv.num_groups(); ++g) {
    for (size_t r = begin; r < end; ++r)
      MakeWeights(p + r * kPageTokens, meta + g * kGroupMetaBytes, step_factor(format), seen, r,
                  scratch);
    const size_t first = g * group, last = first + group;
    if (format == KvFormat::kInt8)
      RunRows(WeighedCodes<8>{values, dim, first, last, scratch, sums}, begin, end);
    else if (format == KvFormat::kInt4)
      RunRows(WeighedCodes<4>{values, dim, first, last, scratch, sums}, begin, end);
    else
      RunRows(WeighedCodes<2>{values, dim, first, last, scratch, sums}, begin, end);
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // WEFT_KERNELS_ATTENTION_CODES_INL_H_
