// Attention of one piece (attention_tile.h), written once for every instruction set.
//
// Whatever the shape of the tile, a row goes through the same operations: per page scores of all 32
// keys (hidden ones become -inf), a running maximum over the visible ones, and a weighted sum of
// the visible values in order. Hidden values never enter: they may be left over from another
// sequence.
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/error.h"
#include "hwy/highway.h"
#include "kernels/attention_tile.h"
#include "kernels/exp-inl.h"
#include "kernels/isa.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL && !defined(__clang__)
#define WEFT_ATTENTION_NATIVE_BF16 1
// Only BF16Native uses it, where has_native_bf16() says that the CPU does.
#pragma GCC push_options
#pragma GCC target("avx512bf16")
#else
#define WEFT_ATTENTION_NATIVE_BF16 0
#endif
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DU = hn::Rebind<uint32_t, DF>;
using DI = hn::Rebind<int32_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
constexpr size_t kLanes = hn::MaxLanes(DF());
constexpr size_t kPageVectors = kPageTokens / kLanes;
constexpr float kNothing = -std::numeric_limits<float>::infinity();
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

// Tokens of a page that a query sees.
struct Range {
  size_t begin, end;
};

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

// ---- running softmax

// State of R rows (state_floats()).
struct State {
  float* sums;     // (R, dim) weighted values
  float* maximum;  // log2 units; kNothing = no key seen
  float* total;    // sum of weights

  State(float* p, size_t rows, size_t dim)
      : sums(p), maximum(p + rows * dim), total(p + rows * (dim + 1)) {}
};

HWY_INLINE void Clear(const State& s, size_t rows, size_t dim) {
  std::memset(s.sums, 0, rows * dim * sizeof(float));
  for (size_t r = 0; r < rows; ++r) {
    s.maximum[r] = kNothing;
    s.total[r] = 0;
  }
}

HWY_INLINE void Scale(float* x, size_t n, VF factor) {
  for (size_t i = 0; i < n; i += kLanes)
    hn::StoreU(hn::Mul(hn::LoadU(DF(), x + i), factor), DF(), x + i);
}

// The subtracted maximum follows the scores only when they outgrow it by this much, which saves
// most rescalings; weights stay below 2^8.
constexpr float kSlack = 8;

// Scores of one row and page (32) become weights. `lanes` sums them, lane by lane.
HWY_INLINE void Weigh(float* scores, size_t begin, size_t end, float* maximum, float* lanes,
                      float* sums, size_t dim) {
  const DF d;
  VF s[kPageVectors];
  HWY_UNROLL(32)
  for (size_t i = 0; i < kPageVectors; ++i) s[i] = hn::LoadU(d, scores + i * kLanes);
  if (begin != 0 || end != kPageTokens) {
    const DI di;
    for (size_t i = 0; i < kPageVectors; ++i) {
      const auto token = hn::Iota(di, static_cast<int32_t>(i * kLanes));
      const auto hidden =
          hn::Or(hn::VecFromMask(di, hn::Lt(token, hn::Set(di, static_cast<int32_t>(begin)))),
                 hn::VecFromMask(di, hn::Gt(token, hn::Set(di, static_cast<int32_t>(end) - 1))));
      s[i] = hn::IfThenElse(hn::RebindMask(d, hn::MaskFromVec(hidden)), hn::Set(d, kNothing), s[i]);
    }
  }
  VF max = s[0];
  HWY_UNROLL(32)
  for (size_t i = 1; i < kPageVectors; ++i) max = hn::Max(max, s[i]);
  const float page_maximum = hn::GetLane(hn::MaxOfLanes(d, max));
  VF sum = hn::LoadU(d, lanes);
  if (page_maximum > *maximum + kSlack || *maximum == kNothing) {
    if (*maximum != kNothing) {
      const VF factor = Exp2(d, hn::Set(d, *maximum - page_maximum));
      sum = hn::Mul(sum, factor);
      Scale(sums, dim, factor);
    }
    *maximum = page_maximum;
  }
  const VF reference = hn::Set(d, *maximum);
  HWY_UNROLL(32)
  for (size_t i = 0; i < kPageVectors; ++i) {
    const VF p = Exp2(d, hn::Sub(s[i], reference));
    hn::StoreU(p, d, scores + i * kLanes);
    sum = hn::Add(sum, p);
  }
  hn::StoreU(sum, d, lanes);
}

// Adds `part`, the next span, to `s`. Rows without keys in it are left as they are.
HWY_INLINE void Merge(const State& s, const State& part, size_t rows, size_t dim) {
  const DF d;
  for (size_t r = 0; r < rows; ++r) {
    if (part.maximum[r] == kNothing) continue;
    float* a = s.sums + r * dim;
    const float* b = part.sums + r * dim;
    if (s.maximum[r] == kNothing) {
      std::memcpy(a, b, dim * sizeof(float));
      s.maximum[r] = part.maximum[r];
      s.total[r] = part.total[r];
      continue;
    }
    const float maximum = s.maximum[r] > part.maximum[r] ? s.maximum[r] : part.maximum[r];
    const VF x = Exp2(d, hn::Set(d, s.maximum[r] - maximum));
    const VF y = Exp2(d, hn::Set(d, part.maximum[r] - maximum));
    for (size_t i = 0; i < dim; i += kLanes)
      hn::StoreU(hn::MulAdd(hn::LoadU(d, b + i), y, hn::Mul(hn::LoadU(d, a + i), x)), d, a + i);
    s.total[r] =
        hn::GetLane(hn::MulAdd(hn::Set(d, part.total[r]), y, hn::Mul(hn::Set(d, s.total[r]), x)));
    s.maximum[r] = maximum;
  }
}

// ---- tiles

class TileWorker {
 public:
  TileWorker(const AttentionTile& tile, float* scratch) : tile_(tile) {
    const size_t dim = tile.shape->kv.head_dim;
    queries_ = scratch;
    query_pairs_ = reinterpret_cast<uint32_t*>(queries_ + kMaxTileRows * dim);
    scores_ = reinterpret_cast<float*>(query_pairs_ + kMaxTileRows * dim / 2);
    score_pairs_ = reinterpret_cast<uint32_t*>(scores_ + kMaxTileRows * kPageTokens);
    lanes_ = reinterpret_cast<float*>(score_pairs_ + kMaxTileRows * kPageTokens / 2);
    states_ = lanes_ + kMaxTileRows * 16;
  }

  void Run() {
    LoadQueries();
    const size_t rows = tile_.num_rows(), dim = tile_.shape->kv.head_dim;
    const size_t state_size = state_floats(rows, dim);
    if (tile_.partial != nullptr) {
      for (size_t span = tile_.first_span; span < tile_.end_span; ++span)
        RunSpan(span,
                State(tile_.partial + (span - tile_.tile_first_span) * state_size, rows, dim));
      return;
    }
    const State all(states_, rows, dim), next(states_ + state_size, rows, dim);
    RunSpan(tile_.first_span, all);
    for (size_t span = tile_.first_span + 1; span < tile_.end_span; ++span) {
      RunSpan(span, next);
      Merge(all, next, rows, dim);
    }
    Finish(all);
  }

  void MergeSpans() {
    const size_t rows = tile_.num_rows(), dim = tile_.shape->kv.head_dim;
    const State all(tile_.partial, rows, dim);
    for (size_t span = 1; span < tile_.tile_spans; ++span)
      Merge(all, State(tile_.partial + span * state_floats(rows, dim), rows, dim), rows, dim);
    Finish(all);
  }

 private:
  const AttentionTile& tile_;
  float* queries_;         // (R, dim), in log2 units
  uint32_t* query_pairs_;  // (R, dim / 2) the same in bf16
  float* scores_;          // (R, 32)
  uint32_t* score_pairs_;  // (R, 16)
  float* lanes_;           // (R, 16)
  float* states_;

  void LoadQueries() {
    constexpr float kLog2E = 1.44269504f;
    const AttentionCall& call = *tile_.call;
    const size_t dim = tile_.shape->kv.head_dim, n = tile_.num_heads * dim;
    const VF scale = hn::Set(DF(), tile_.shape->scale * kLog2E);
    for (size_t t = 0; t < tile_.num_tokens; ++t) {
      const float* q = call.q + (tile_.first_token + t) * call.q_stride + tile_.first_head * dim;
      for (size_t i = 0; i < n; i += kLanes)
        hn::StoreU(hn::Mul(hn::LoadU(DF(), q + i), scale), DF(), queries_ + t * n + i);
    }
#if WEFT_ATTENTION_NATIVE_BF16
    if (has_native_bf16()) RoundRowsToBf16(queries_, tile_.num_rows() * dim, query_pairs_);
#endif
  }

  // Keys of `page` that a token of the tile sees.
  Range Visible(size_t page, size_t token) const {
    const size_t position = tile_.position(token), start = page * kPageTokens;
    const size_t first = tile_.first_key(position);
    return {std::min(first > start ? first - start : 0, kPageTokens),
            position < start ? 0 : std::min(position + 1 - start, kPageTokens)};
  }

  void RunSpan(size_t span, const State& state) {
    constexpr size_t kSpanPages = kSpanTokens / kPageTokens;
    const size_t rows = tile_.num_rows(), dim = tile_.shape->kv.head_dim;
    Clear(state, rows, dim);
    std::memset(lanes_, 0, rows * 16 * sizeof(float));
    const size_t first =
        std::max(span * kSpanPages, tile_.first_key(tile_.position(0)) / kPageTokens);
    const size_t end =
        std::min((span + 1) * kSpanPages, tile_.position(tile_.num_tokens - 1) / kPageTokens + 1);
    for (size_t page = first; page < end; ++page) RunPage(page, state);
    for (size_t r = 0; r < rows; ++r)
      state.total[r] = hn::GetLane(hn::SumOfLanes(DF(), hn::LoadU(DF(), lanes_ + r * 16)));
  }

  void RunPage(size_t page, const State& state) {
    const KvPage& stored = tile_.call->kv.pages[page];
    if (stored.k_format == KvFormat::kF16)
      return RunPageAs<F16>(page, stored, queries_, scores_, state);
    WEFT_ASSERT(stored.k_format == KvFormat::kBF16);
#if WEFT_ATTENTION_NATIVE_BF16
    if (has_native_bf16())
      return RunPageAs<BF16Native>(page, stored, query_pairs_, score_pairs_, state);
#endif
    RunPageAs<BF16Widened>(page, stored, reinterpret_cast<const BF16Widened::Other*>(queries_),
                           reinterpret_cast<const BF16Widened::Other*>(scores_), state);
  }

  template <class Format>
  void RunPageAs(size_t page, const KvPage& stored, const typename Format::Other* queries,
                 const typename Format::Other* probabilities, const State& state) {
    const KvShape& kv = tile_.shape->kv;
    const size_t dim = kv.head_dim, rows = tile_.num_rows(), heads = tile_.num_heads;
    const uint8_t* keys = stored.data + tile_.kv_head * stored.head_stride;
    RunRows(ScoresOf<Format>{keys, dim, queries, scores_}, 0, rows);
    for (size_t r = 0; r < rows; ++r) {
      const Range seen = Visible(page, r / heads);
      if (seen.begin < seen.end)
        Weigh(scores_ + r * kPageTokens, seen.begin, seen.end, state.maximum + r, lanes_ + r * 16,
              state.sums + r * dim, dim);
    }
#if WEFT_ATTENTION_NATIVE_BF16
    if constexpr (std::is_same_v<Format, BF16Native>)
      RoundRowsToBf16(scores_, rows * kPageTokens, score_pairs_);
#endif
    const uint8_t* values = stored.head_values(kv, tile_.kv_head);
    const auto add = [&](size_t begin, size_t end, Range seen) HWY_ATTR {
      RunRows(WeighedSumOf<Format>{values, dim, probabilities, state.sums, seen.begin, seen.end},
              begin, end);
    };
    const Range first = Visible(page, 0), last = Visible(page, tile_.num_tokens - 1);
    if (first.begin == last.begin && first.end == last.end) return add(0, rows, first);
    for (size_t t = 0; t < tile_.num_tokens; ++t) {
      const Range seen = Visible(page, t);
      if (seen.begin < seen.end) add(t * heads, (t + 1) * heads, seen);
    }
  }

  void Finish(const State& state) {
    const AttentionCall& call = *tile_.call;
    const size_t dim = tile_.shape->kv.head_dim;
    for (size_t r = 0; r < tile_.num_rows(); ++r) {
      const size_t token = tile_.first_token + r / tile_.num_heads;
      const size_t head = tile_.first_head + r % tile_.num_heads;
      float* out = call.out + token * call.out_stride + head * dim;
      const VF inverse = hn::Set(DF(), 1.0f / state.total[r]);
      for (size_t i = 0; i < dim; i += kLanes)
        hn::StoreU(hn::Mul(hn::LoadU(DF(), state.sums + r * dim + i), inverse), DF(), out + i);
    }
  }
};

void AttendTile(const AttentionTile& tile, float* scratch) { TileWorker(tile, scratch).Run(); }
void MergeTile(const AttentionTile& tile, float* scratch) {
  TileWorker(tile, scratch).MergeSpans();
}

}  // namespace weft::kernels::HWY_NAMESPACE
#if WEFT_ATTENTION_NATIVE_BF16
#pragma GCC pop_options
#endif
#undef WEFT_ATTENTION_NATIVE_BF16
HWY_AFTER_NAMESPACE();
