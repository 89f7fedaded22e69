// The row loops of elementwise.h, written once for every instruction set.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/highway.h"
#include "kernels/elementwise.h"
#include "kernels/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DRow = hn::ScalableTag<float>;
using VRow = hn::Vec<DRow>;

// Up to one vector of values; lanes past n hold `fill`.
HWY_INLINE VRow LoadPart(const float* x, size_t n, float fill) {
  const DRow d;
  HWY_ALIGN float lanes[hn::MaxLanes(DRow())];
  for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = i < n ? x[i] : fill;
  return hn::Load(d, lanes);
}

HWY_INLINE void StorePart(VRow v, size_t n, float* out) {
  const DRow d;
  HWY_ALIGN float lanes[hn::MaxLanes(DRow())];
  hn::Store(v, d, lanes);
  std::copy(lanes, lanes + n, out);
}

float SumOfSquares(const float* x, size_t n) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  VRow sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (size_t j = 0; j < 4; ++j) {
      const VRow v = hn::LoadU(d, x + i + j * lanes);
      sum[j] = hn::MulAdd(v, v, sum[j]);
    }
  }
  for (; i < n; i += lanes) {
    const VRow v = LoadPart(x + i, n - i, 0);
    sum[0] = hn::MulAdd(v, v, sum[0]);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
}

void RmsNorm(const float* x, const float* weight, float eps, size_t n, float* out) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  const float mean = SumOfSquares(x, n) / static_cast<float>(n);
  const VRow scale = hn::Set(d, 1.0f / std::sqrt(mean + eps));
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const VRow scaled = hn::Mul(hn::LoadU(d, x + i), scale);
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + i)), d, out + i);
  }
  if (i < n) {
    const VRow scaled = hn::Mul(LoadPart(x + i, n - i, 0), scale);
    StorePart(hn::Mul(scaled, LoadPart(weight + i, n - i, 0)), n - i, out + i);
  }
}

HWY_INLINE VRow Silu(VRow z) {
  const DRow d;
  return hn::Div(z, hn::Add(hn::Set(d, 1.0f), Exp(d, hn::Neg(z))));
}

void SiluMultiply(const float* gate, const float* up, size_t n, float* out) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(Silu(hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, out + i);
  if (i < n) {
    const VRow y = Silu(LoadPart(gate + i, n - i, 0));
    StorePart(hn::Mul(y, LoadPart(up + i, n - i, 0)), n - i, out + i);
  }
}

float MaxOf(const float* x, size_t n) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  VRow max = hn::Set(d, kLowest);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) max = hn::Max(max, hn::LoadU(d, x + i));
  if (i < n) max = hn::Max(max, LoadPart(x + i, n - i, kLowest));
  return hn::GetLane(hn::MaxOfLanes(d, max));
}

void Softmax(float* x, size_t n) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  const VRow max = hn::Set(d, MaxOf(x, n));
  // A vocabulary is long: f32 sums of short stretches, added in f64.
  const size_t stretch = 256 * lanes;
  double total = 0;
  for (size_t begin = 0; begin < n; begin += stretch) {
    const size_t end = std::min(n, begin + stretch);
    VRow sum = hn::Zero(d);
    size_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      const VRow e = Exp(d, hn::Sub(hn::LoadU(d, x + i), max));
      hn::StoreU(e, d, x + i);
      sum = hn::Add(sum, e);
    }
    if (i < end) {
      const VRow part = LoadPart(x + i, end - i, -std::numeric_limits<float>::infinity());
      const VRow e = Exp(d, hn::Sub(part, max));
      StorePart(e, end - i, x + i);
      sum = hn::Add(sum, e);
    }
    total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
  }
  const float inverse = static_cast<float>(1.0 / total);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)), d, x + i);
  for (; i < n; ++i) x[i] *= inverse;
}

// One head turned by `half` angles; the pairs are (i, i + half).
HWY_INLINE void RotateHalf(const float* cosine, const float* sine, size_t half, float* head) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const VRow c = hn::LoadU(d, cosine + i), s = hn::LoadU(d, sine + i);
    const VRow a = hn::LoadU(d, head + i), b = hn::LoadU(d, head + half + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, head + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, head + half + i);
  }
  for (; i < half; ++i) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cosine[i] - b * sine[i];
    head[half + i] = a * sine[i] + b * cosine[i];
  }
}

// The same with pairs (2i, 2i + 1).
HWY_INLINE void RotateInterleaved(const float* cosine, const float* sine, size_t half,
                                  float* head) {
  const DRow d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const VRow c = hn::LoadU(d, cosine + i), s = hn::LoadU(d, sine + i);
    VRow a, b;
    hn::LoadInterleaved2(d, head + 2 * i, a, b);
    hn::StoreInterleaved2(hn::NegMulAdd(b, s, hn::Mul(a, c)), hn::MulAdd(a, s, hn::Mul(b, c)), d,
                          head + 2 * i);
  }
  for (; i < half; ++i) {
    const float a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * cosine[i] - b * sine[i];
    head[2 * i + 1] = a * sine[i] + b * cosine[i];
  }
}

void Rope(RopeStyle style, const float* cos_sin, size_t half, size_t num_heads, size_t head_dim,
          float* heads) {
  for (size_t h = 0; h < num_heads; ++h) {
    if (style == RopeStyle::kHalf) {
      RotateHalf(cos_sin, cos_sin + half, half, heads + h * head_dim);
    } else {
      RotateInterleaved(cos_sin, cos_sin + half, half, heads + h * head_dim);
    }
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
