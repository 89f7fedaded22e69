// Attention of one piece (attention_tile.h), written once for every instruction set.
//
// Whatever the shape of the tile, a row goes through the same operations: per page scores of all 32
// keys (hidden ones become -inf), a running maximum over the visible ones, and a weighted sum of
// the visible values in order. Hidden values never enter: they may be left over from another
// sequence.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/attention_codes-inl.h"
#include "kernels/attention_formats-inl.h"
#include "kernels/attention_tile.h"
#include "kernels/exp-inl.h"
#include "kernels/isa.h"

WEFT_ATTENTION_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

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
    codes_ = CodeScratch(lanes_ + kMaxTileRows * 16, dim);
    states_ = lanes_ + kMaxTileRows * 16 + code_floats(dim);
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
  CodeScratch codes_;
  bool has_query_codes_ = false;  // made when the first int page is met
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
    const KvShape& kv = tile_.shape->kv;
    const KvPage& stored = tile_.call->kv.pages[page];
    const size_t dim = kv.head_dim, rows = tile_.num_rows(), heads = tile_.num_heads;
    const uint8_t* keys = stored.head_keys(tile_.kv_head);
    const uint8_t* values = stored.head_values(kv, tile_.kv_head);
    const bool has_meta = stored.meta != nullptr;
    const uint8_t* meta = has_meta ? stored.meta + tile_.kv_head * stored.meta_stride : nullptr;
    ScorePage(stored.k_format, keys, meta);
    for (size_t r = 0; r < rows; ++r) {
      const Range seen = Visible(page, r / heads);
      if (seen.begin < seen.end)
        Weigh(scores_ + r * kPageTokens, seen.begin, seen.end, state.maximum + r, lanes_ + r * 16,
              state.sums + r * dim, dim);
    }
#if WEFT_ATTENTION_NATIVE_BF16
    if (stored.v_format == KvFormat::kBF16 && has_native_bf16())
      RoundRowsToBf16(scores_, rows * kPageTokens, score_pairs_);
#endif
    if (has_meta) meta += kv.meta_head_bytes() / 2;
    const Range first = Visible(page, 0), last = Visible(page, tile_.num_tokens - 1);
    if (first.begin == last.begin && first.end == last.end)
      return AddValues(stored.v_format, values, meta, state, 0, rows, first);
    for (size_t t = 0; t < tile_.num_tokens; ++t) {
      const Range seen = Visible(page, t);
      if (seen.begin < seen.end)
        AddValues(stored.v_format, values, meta, state, t * heads, (t + 1) * heads, seen);
    }
  }

  // scores_ = queries x keys of a page.
  void ScorePage(KvFormat format, const uint8_t* keys, const uint8_t* meta) {
    const size_t dim = tile_.shape->kv.head_dim, rows = tile_.num_rows();
    if (is_quantized(format)) {
      if (!has_query_codes_) MakeQueryCodes(tile_.shape->kv, queries_, rows, codes_);
      has_query_codes_ = true;
      return ScoreCodes(format, tile_.shape->kv, keys, meta, queries_, codes_, rows, scores_);
    }
    if (format == KvFormat::kF16)
      return RunRows(ScoresOf<F16>{keys, dim, queries_, scores_}, 0, rows);
#if WEFT_ATTENTION_NATIVE_BF16
    if (has_native_bf16())
      return RunRows(ScoresOf<BF16Native>{keys, dim, query_pairs_, scores_}, 0, rows);
#endif
    const auto* pairs = reinterpret_cast<const BF16Widened::Other*>(queries_);
    RunRows(ScoresOf<BF16Widened>{keys, dim, pairs, scores_}, 0, rows);
  }

  // Sums of the rows [begin, end) += their weights x the values that they see.
  void AddValues(KvFormat format, const uint8_t* values, const uint8_t* meta, const State& state,
                 size_t begin, size_t end, Range seen) {
    const size_t dim = tile_.shape->kv.head_dim;
    if (is_quantized(format))
      return AddCodes(format, tile_.shape->kv, values, meta, scores_, seen, codes_, begin, end,
                      state.sums);
    if (format == KvFormat::kF16)
      return RunRows(WeighedSumOf<F16>{values, dim, scores_, state.sums, seen.begin, seen.end},
                     begin, end);
#if WEFT_ATTENTION_NATIVE_BF16
    if (has_native_bf16())
      return RunRows(
          WeighedSumOf<BF16Native>{values, dim, score_pairs_, state.sums, seen.begin, seen.end},
          begin, end);
#endif
    const auto* pairs = reinterpret_cast<const BF16Widened::Other*>(scores_);
    RunRows(WeighedSumOf<BF16Widened>{values, dim, pairs, state.sums, seen.begin, seen.end}, begin,
            end);
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
      if (call.log_sum != nullptr)
        call.log_sum[token * tile_.shape->num_heads + head] =
            state.maximum[r] + std::log2(state.total[r]);
    }
  }
};

void AttendTile(const AttentionTile& tile, float* scratch) { TileWorker(tile, scratch).Run(); }
void MergeTile(const AttentionTile& tile, float* scratch) {
  TileWorker(tile, scratch).MergeSpans();
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
