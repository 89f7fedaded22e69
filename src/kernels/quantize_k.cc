// How a super-block is quantised, for the least sum of squared errors:
//   1. Each sub-block alone: try a grid of scales around the one that just spans its values; round
//   to
//      codes; with the codes fixed, the best scale (and minimum) is a linear least-squares problem.
//   2. The sub-blocks' scales (and mins) are rounded to small integers times d (and dmin).
//   3. Alternate, while it helps: codes are rounded anew for the rounded scales; with codes and
//   integer
//      scales fixed, d (and dmin) are solved for by least squares.
// Sums run over lanes of 8 in a fixed order, which compilers vectorise without reassociating.
#include "kernels/quantize_k.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

// Round to nearest even, |x| < 2^22: the sum's last mantissa bit is worth 1.
float round_fast(float x) { return (x + 12582912.0f) - 12582912.0f; }

float round_code(float x, float low, float high) {
  return std::min(std::max(round_fast(x), low), high);  // in this order a NaN becomes `low`
}

constexpr size_t kLanes = 8;
struct Lanes {
  std::array<float, kLanes> v{};
  float total() const { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
};

// --- x = scale * q, q in [low, high] with low = -(high + 1): Q3_K and Q6_K
// -------------------------

struct SymmetricSums {
  float xq, qq;  // sum of x * q and of q * q
};

template <size_t kN>
SymmetricSums symmetric_sums(const float* x, float inverse_scale, float low, float high) {
  Lanes xq, qq;
  for (size_t i = 0; i < kN; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      const float q = round_code(x[i + k] * inverse_scale, low, high);
      xq.v[k] += x[i + k] * q;
      qq.v[k] += q * q;
    }
  }
  return {xq.total(), qq.total()};
}

// The scale that leaves the least squared error: with q fixed, scale = xq / qq removes xq^2 / qq.
template <size_t kN>
float fit_symmetric(const float* x, float low, float high) {
  float extreme = 0;
  for (size_t i = 0; i < kN; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  if (extreme == 0) return 0;
  float best_scale = 0, best_gain = -1;
  // The largest value gets the code `low`, which reaches one further than `high`; trying scales
  // down to 2 codes above and beyond it covers where the optimum lies for bell-shaped weights.
  for (int step = -20; step <= 20; ++step) {
    const float inverse_scale = (low + 0.1f * static_cast<float>(step)) / extreme;
    if (!std::isfinite(inverse_scale)) break;
    const SymmetricSums s = symmetric_sums<kN>(x, inverse_scale, low, high);
    if (s.qq <= 0 || s.xq * s.xq <= best_gain * s.qq) continue;
    best_gain = s.xq * s.xq / s.qq;
    best_scale = s.xq / s.qq;
  }
  return best_scale;
}

// A super-block of 16 sub-blocks of 16 values; `scale_low`..`scale_high` is the range of the
// integer scales. Codes come out as q - low >= 0.
struct SymmetricBlock {
  uint16_t d;
  std::array<int, 16> scales;
  std::array<uint8_t, kSuperBlock> codes;
};

// Rounds all codes for d and the scales. Returns the sums that the best d for those codes follows
// from.
SymmetricSums round_symmetric(const float* x, float d, const std::array<int, 16>& scales, float low,
                              float high, std::array<uint8_t, kSuperBlock>& codes) {
  Lanes xq, qq;
  for (size_t j = 0; j < 16; ++j) {
    const auto scale = static_cast<float>(scales[j]);
    const float step = d * scale;
    const float inverse = step == 0 ? 0 : 1 / step;
    for (size_t i = 0; i < 16; ++i) {
      const float value = x[j * 16 + i];
      const float q = round_code(value * inverse, low, high);
      codes[j * 16 + i] = static_cast<uint8_t>(q - low);
      xq.v[i % kLanes] += value * (scale * q);
      qq.v[i % kLanes] += scale * q * (scale * q);
    }
  }
  return {xq.total(), qq.total()};
}

double symmetric_error(const float* x, const SymmetricBlock& block, float low) {
  const float d = half_to_float(block.d);
  double sum = 0;
  for (size_t i = 0; i < kSuperBlock; ++i) {
    const float step = d * static_cast<float>(block.scales[i / 16]);
    const double e = x[i] - step * (static_cast<float>(block.codes[i]) + low);
    sum += e * e;
  }
  return sum;
}

constexpr int kRefinements = 4;  // the error stops falling after 2 or 3 on normal weights

SymmetricBlock quantize_symmetric(const float* x, float low, float high, int scale_low,
                                  int scale_high) {
  std::array<float, 16> scale;
  float extreme = 0;
  for (size_t j = 0; j < 16; ++j) {
    scale[j] = fit_symmetric<16>(x + j * 16, low, high);
    if (std::fabs(scale[j]) > std::fabs(extreme)) extreme = scale[j];
  }
  SymmetricBlock best{};
  best.codes.fill(static_cast<uint8_t>(-low));  // all zero
  double best_error = symmetric_error(x, best, low);
  float d = extreme / static_cast<float>(scale_low);
  for (int round = 0; round < kRefinements && d != 0; ++round) {
    SymmetricBlock block;
    block.d = scale_to_half(d);
    const float rounded = half_to_float(block.d);
    if (rounded == 0) break;
    for (size_t j = 0; j < 16; ++j)
      block.scales[j] =
          std::clamp(static_cast<int>(std::lround(scale[j] / rounded)), scale_low, scale_high);
    const SymmetricSums s = round_symmetric(x, rounded, block.scales, low, high, block.codes);
    const double error = symmetric_error(x, block, low);
    if (error >= best_error) break;
    best_error = error;
    best = block;
    d = s.qq > 0 ? s.xq / s.qq : 0;
  }
  return best;
}

// --- x = scale * q - min, q in [0, high], min >= 0: Q2_K, Q4_K and Q5_K
// ----------------------------

struct Affine {
  float scale = 0, min = 0;
};

struct AffineSums {
  float q = 0, qq = 0, xq = 0;
};

template <size_t kN>
AffineSums affine_sums(const float* x, float inverse_scale, float min, float high) {
  Lanes q1, q2, xq;
  for (size_t i = 0; i < kN; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      const float q = round_code((x[i + k] + min) * inverse_scale, 0, high);
      q1.v[k] += q;
      q2.v[k] += q * q;
      xq.v[k] += x[i + k] * q;
    }
  }
  return {q1.total(), q2.total(), xq.total()};
}

// Least squares for scale and min with the codes' sums given; min is kept from going below 0.
Affine solve_affine(const AffineSums& s, float sum_x, float n) {
  const float determinant = n * s.qq - s.q * s.q;
  if (determinant > 0) {
    const Affine fit{(n * s.xq - sum_x * s.q) / determinant,
                     (s.q * s.xq - s.qq * sum_x) / determinant};
    if (fit.min >= 0 && fit.scale > 0) return fit;
  }
  if (s.qq > 0 && s.xq > 0) return {s.xq / s.qq, 0};
  return {0, std::max(0.0f, -sum_x / n)};
}

// Sum of squared errors less the constant sum of x^2.
float affine_cost(const AffineSums& s, const Affine& fit, float sum_x, float n) {
  return fit.scale * fit.scale * s.qq + n * fit.min * fit.min - 2 * fit.scale * fit.min * s.q -
         2 * fit.scale * s.xq + 2 * fit.min * sum_x;
}

template <size_t kN>
Affine fit_affine(const float* x, float high) {
  float low_x = 0, high_x = x[0], sum_x = 0;
  for (size_t i = 0; i < kN; ++i) {
    low_x = std::min(low_x, x[i]);
    high_x = std::max(high_x, x[i]);
    sum_x += x[i];
  }
  const auto n = static_cast<float>(kN);
  const float span = high_x - low_x;
  if (!(span > 0)) return {0, -low_x};
  Affine best{0, std::max(0.0f, -sum_x / n)};
  float best_cost = n * best.min * best.min + 2 * best.min * sum_x;
  // From scales that leave the outer codes empty to scales that clip the extremes.
  for (int step = -5; step <= 20; ++step) {
    const float inverse_scale = (high + 0.1f * static_cast<float>(step)) / span;
    if (!std::isfinite(inverse_scale)) break;
    // Two passes: the second rounds for the minimum that the first one found.
    Affine fit{0, -low_x};
    float inverse = inverse_scale;
    for (int pass = 0; pass < 2; ++pass) {
      const AffineSums s = affine_sums<kN>(x, inverse, fit.min, high);
      fit = solve_affine(s, sum_x, n);
      const float cost = affine_cost(s, fit, sum_x, n);
      if (cost < best_cost) {
        best_cost = cost;
        best = fit;
      }
      if (!(fit.scale > 0)) break;
      inverse = 1 / fit.scale;
      if (!std::isfinite(inverse)) break;
    }
  }
  return best;
}

// A super-block of kSubs sub-blocks. Integer scales and mins are 0 ... scale_high.
template <size_t kSubs>
struct AffineBlock {
  uint16_t d = 0, dmin = 0;
  std::array<uint8_t, kSubs> scales{}, mins{};
  std::array<uint8_t, kSuperBlock> codes{};
};

// With a = scale * q and b = min (integers), x = d * a - dmin * b.
struct PairSums {
  double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0, error = 0;
};

template <size_t kSubs>
PairSums round_affine(const float* x, float high, AffineBlock<kSubs>& block) {
  constexpr size_t kN = kSuperBlock / kSubs;
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  PairSums total;
  for (size_t j = 0; j < kSubs; ++j) {
    const float scale = block.scales[j], min = block.mins[j];
    const float step = d * scale, offset = dmin * min;
    const float inverse = step == 0 ? 0 : 1 / step;
    Lanes q1, q2, xq, x1, error;
    for (size_t i = 0; i < kN; ++i) {
      const float value = x[j * kN + i];
      const float q = round_code((value + offset) * inverse, 0, high);
      block.codes[j * kN + i] = static_cast<uint8_t>(q);
      const float e = value - (step * q - offset);
      q1.v[i % kLanes] += q;
      q2.v[i % kLanes] += q * q;
      xq.v[i % kLanes] += value * q;
      x1.v[i % kLanes] += value;
      error.v[i % kLanes] += e * e;
    }
    const double s = scale, m = min;
    total.aa += s * s * q2.total();
    total.ab += s * m * q1.total();
    total.bb += m * m * static_cast<double>(kN);
    total.xa += s * xq.total();
    total.xb += m * x1.total();
    total.error += error.total();
  }
  return total;
}

struct SuperScales {
  float d, dmin;
};

// Least squares for d and dmin: minimise the sum of (x - d a + dmin b)^2.
SuperScales solve_super_scales(const PairSums& s, SuperScales before) {
  const double determinant = s.aa * s.bb - s.ab * s.ab;
  if (determinant > 0) {
    const double d = (s.xa * s.bb - s.xb * s.ab) / determinant;
    const double dmin = (s.xa * s.ab - s.xb * s.aa) / determinant;
    if (d > 0 && dmin >= 0) return {static_cast<float>(d), static_cast<float>(dmin)};
  }
  if (s.bb == 0 && s.aa > 0 && s.xa > 0) return {static_cast<float>(s.xa / s.aa), 0};
  return before;
}

uint8_t integer_scale(float value, float unit, int highest) {
  if (unit == 0) return 0;
  return static_cast<uint8_t>(std::clamp(static_cast<int>(std::lround(value / unit)), 0, highest));
}

template <size_t kSubs>
AffineBlock<kSubs> quantize_affine(const float* x, float high, int scale_high) {
  constexpr size_t kN = kSuperBlock / kSubs;
  std::array<Affine, kSubs> fits;
  float max_scale = 0, max_min = 0;
  for (size_t j = 0; j < kSubs; ++j) {
    fits[j] = fit_affine<kN>(x + j * kN, high);
    max_scale = std::max(max_scale, fits[j].scale);
    max_min = std::max(max_min, fits[j].min);
  }
  SuperScales super{max_scale / static_cast<float>(scale_high),
                    max_min / static_cast<float>(scale_high)};
  AffineBlock<kSubs> best;
  double best_error = round_affine(x, high, best).error;  // all zero
  for (int round = 0; round < kRefinements; ++round) {
    AffineBlock<kSubs> block;
    block.d = scale_to_half(super.d);
    block.dmin = scale_to_half(super.dmin);
    for (size_t j = 0; j < kSubs; ++j) {
      block.scales[j] = integer_scale(fits[j].scale, half_to_float(block.d), scale_high);
      block.mins[j] = integer_scale(fits[j].min, half_to_float(block.dmin), scale_high);
    }
    const PairSums sums = round_affine(x, high, block);
    if (sums.error >= best_error) break;
    best_error = sums.error;
    best = block;
    super = solve_super_scales(sums, super);
  }
  return best;
}

// --- packing
// ---------------------------------------------------------------------------------------

void pack_two_bits(const uint8_t* codes, uint8_t* qs) {
  std::memset(qs, 0, 64);
  for (size_t i = 0; i < kSuperBlock; ++i)
    qs[i / 128 * 32 + i % 32] |= static_cast<uint8_t>((codes[i] & 3) << (i / 32 % 4 * 2));
}

void pack_four_bits(const uint8_t* codes, uint8_t* qs) {
  std::memset(qs, 0, 128);
  for (size_t i = 0; i < kSuperBlock; ++i)
    qs[i / 64 * 32 + i % 32] |= static_cast<uint8_t>((codes[i] & 15) << (i / 32 % 2 * 4));
}

// One bit of each code, `shift` up, to bit i / 32 of byte i % 32.
void pack_bit_plane(const uint8_t* codes, int shift, uint8_t* plane) {
  std::memset(plane, 0, 32);
  for (size_t i = 0; i < kSuperBlock; ++i)
    plane[i % 32] |= static_cast<uint8_t>((codes[i] >> shift & 1) << i / 32);
}

}  // namespace

void quantize_block(const float* x, BlockQ2_K& b) {
  const AffineBlock<16> a = quantize_affine<16>(x, 3, 15);
  b.d = a.d;
  b.dmin = a.dmin;
  for (size_t j = 0; j < 16; ++j) b.scales[j] = static_cast<uint8_t>(a.scales[j] | a.mins[j] << 4);
  pack_two_bits(a.codes.data(), b.qs);
}

void quantize_block(const float* x, BlockQ3_K& b) {
  const SymmetricBlock s = quantize_symmetric(x, -4, 3, -32, 31);
  b.d = s.d;
  uint8_t scales[16];
  for (size_t j = 0; j < 16; ++j) scales[j] = static_cast<uint8_t>(s.scales[j] + 32);
  pack_q3_scales(scales, b.scales);
  pack_two_bits(s.codes.data(), b.qs);
  pack_bit_plane(s.codes.data(), 2, b.hmask);
}

void quantize_block(const float* x, BlockQ4_K& b) {
  const AffineBlock<8> a = quantize_affine<8>(x, 15, 63);
  b.d = a.d;
  b.dmin = a.dmin;
  pack_scales_mins(a.scales.data(), a.mins.data(), b.scales);
  pack_four_bits(a.codes.data(), b.qs);
}

void quantize_block(const float* x, BlockQ5_K& b) {
  const AffineBlock<8> a = quantize_affine<8>(x, 31, 63);
  b.d = a.d;
  b.dmin = a.dmin;
  pack_scales_mins(a.scales.data(), a.mins.data(), b.scales);
  pack_four_bits(a.codes.data(), b.qs);
  pack_bit_plane(a.codes.data(), 4, b.qh);
}

void quantize_block(const float* x, BlockQ6_K& b) {
  const SymmetricBlock s = quantize_symmetric(x, -32, 31, -128, 127);
  b.d = s.d;
  for (size_t j = 0; j < 16; ++j) b.scales[j] = static_cast<int8_t>(s.scales[j]);
  std::memset(b.ql, 0, sizeof b.ql);
  std::memset(b.qh, 0, sizeof b.qh);
  for (size_t i = 0; i < kSuperBlock; ++i) {
    const uint8_t q = s.codes[i];
    const size_t g = i / 32, l = i % 32;
    b.ql[g / 4 * 64 + g % 2 * 32 + l] |= static_cast<uint8_t>((q & 15) << (g / 2 % 2 * 4));
    b.qh[g / 4 * 32 + l] |= static_cast<uint8_t>(q >> 4 << (g % 4 * 2));
  }
}

}  // namespace weft::kernels
