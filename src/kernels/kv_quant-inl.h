// The loops of kv_quant.h, written once for every instruction set. Keys and values go alike: a
// chunk holds 16 columns (tokens of K, features of V) of 4 rows (features of K, tokens of V), and
// both lie in 16-bit pages as rows of columns.
#include "hwy/highway.h"
#include "kernels/kv_quant.h"

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DQ = hn::CappedTag<float, 16>;
using DQU = hn::Rebind<uint32_t, DQ>;
using DQI = hn::Rebind<int32_t, DQ>;
using VQ = hn::Vec<DQ>;
using VQU = hn::Vec<DQU>;

// Rows 4 * quad ... + 3 of one vector of columns, widened.
struct FromF16 {
  static HWY_INLINE void Load(const uint8_t* page, size_t columns, size_t quad, size_t column,
                              VQ (&x)[4]) {
    const hn::Rebind<hwy::float16_t, DQ> d;
    const auto* units = reinterpret_cast<const hwy::float16_t*>(page) + 4 * quad * columns + column;
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) x[i] = hn::PromoteTo(DQ(), hn::LoadU(d, units + i * columns));
  }
};

struct FromBF16 {
  static HWY_INLINE void Load(const uint8_t* page, size_t columns, size_t quad, size_t column,
                              VQ (&x)[4]) {
    const DQ d;
    const VQ most = hn::Set(d, 65504.0f), least = hn::Set(d, -65504.0f);
    const auto* units = reinterpret_cast<const uint32_t*>(page) + 2 * quad * columns + column;
    HWY_UNROLL(2)
    for (size_t i = 0; i < 2; ++i) {
      const VQU pairs = hn::LoadU(DQU(), units + i * columns);
      x[2 * i] = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
      x[2 * i + 1] = hn::BitCast(d, hn::And(pairs, hn::Set(DQU(), 0xFFFF0000u)));
    }
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) x[i] = hn::Min(most, hn::Max(least, x[i]));
  }
};

// The codes of one row of columns in `kBits` bits; 1 / s and z of 8 bit.
template <size_t kBits>
HWY_INLINE VQU Codes(VQ x, VQ z, VQ inverse) {
  const DQU d;
  VQU c = hn::BitCast(d, hn::NearestInt(hn::Mul(hn::Sub(x, z), inverse)));
  if constexpr (kBits <= 4)  // nearest to c / 17
    c = hn::ShiftRight<8>(hn::Add(hn::Sub(hn::ShiftLeft<4>(c), c), hn::Set(d, 135u)));
  if constexpr (kBits == 2)  // nearest to c / 5
    c = hn::ShiftRight<6>(hn::BitCast(
        d, hn::Mul(hn::BitCast(DQI(), hn::Add(c, hn::Set(d, 2u))), hn::Set(DQI(), 13))));
  return c;
}

template <size_t kBits>
HWY_INLINE VQU PackQuad(const VQ (&x)[4], const VQ (&z)[4], const VQ (&inverse)[4]) {
  VQU packed = Codes<kBits>(x[0], z[0], inverse[0]);
  packed = hn::Or(packed, hn::ShiftLeft<8>(Codes<kBits>(x[1], z[1], inverse[1])));
  packed = hn::Or(packed, hn::ShiftLeft<16>(Codes<kBits>(x[2], z[2], inverse[2])));
  return hn::Or(packed, hn::ShiftLeft<24>(Codes<kBits>(x[3], z[3], inverse[3])));
}

template <class From>
void KeyRange(const uint8_t* page, size_t begin, size_t end, float* least, float* most) {
  const DQ d;
  const size_t lanes = hn::Lanes(d);
  for (size_t t = 0; t < kPageTokens; t += lanes) {
    VQ x[4], low, high;
    From::Load(page, kPageTokens, begin / 4, t, x);
    low = high = x[0];
    for (size_t quad = begin / 4; quad < end / 4; ++quad) {
      From::Load(page, kPageTokens, quad, t, x);
      low = hn::Min(low, hn::Min(hn::Min(x[0], x[1]), hn::Min(x[2], x[3])));
      high = hn::Max(high, hn::Max(hn::Max(x[0], x[1]), hn::Max(x[2], x[3])));
    }
    hn::StoreU(low, d, least + t);
    hn::StoreU(high, d, most + t);
  }
}

template <class From>
void ValueRange(const uint8_t* page, size_t dim, size_t begin, size_t end, float* least,
                float* most) {
  const DQ d;
  const size_t lanes = hn::Lanes(d);
  for (size_t quad = 0; quad < kPageTokens / 4; ++quad) {
    VQ x[4], low[4], high[4];
    From::Load(page, dim, quad, begin, x);
    for (size_t i = 0; i < 4; ++i) low[i] = high[i] = x[i];
    for (size_t column = begin + lanes; column < end; column += lanes) {
      From::Load(page, dim, quad, column, x);
      for (size_t i = 0; i < 4; ++i) {
        low[i] = hn::Min(low[i], x[i]);
        high[i] = hn::Max(high[i], x[i]);
      }
    }
    for (size_t i = 0; i < 4; ++i) {
      least[4 * quad + i] = hn::GetLane(hn::MinOfLanes(d, low[i]));
      most[4 * quad + i] = hn::GetLane(hn::MaxOfLanes(d, high[i]));
    }
  }
}

// z, inverse: (32) of the group [begin, end) of features.
template <class From, size_t kBits>
void KeyCodes(const uint8_t* page, size_t dim, size_t begin, size_t end, const float* z,
              const float* inverse, uint8_t* codes) {
  const DQ d;
  constexpr size_t kQuads = 8 / kBits;  // of a chunk
  for (size_t t = 0; t < kPageTokens; t += hn::Lanes(d)) {
    const VQ zt = hn::LoadU(d, z + t), it = hn::LoadU(d, inverse + t);
    const VQ zs[4] = {zt, zt, zt, zt}, is[4] = {it, it, it, it};
    uint8_t* out = codes + t / 16 * dim * 2 * kBits + t % 16 * 4;
    for (size_t quad = begin / 4; quad < end / 4; quad += kQuads) {
      VQU chunk = hn::Zero(DQU());
      VQ x[4];
      From::Load(page, kPageTokens, quad, t, x);
      chunk = PackQuad<kBits>(x, zs, is);
      if constexpr (kQuads >= 2) {
        From::Load(page, kPageTokens, quad + 1, t, x);
        chunk = hn::Or(chunk, hn::ShiftLeft<kBits % 8>(PackQuad<kBits>(x, zs, is)));
      }
      if constexpr (kQuads == 4) {
        From::Load(page, kPageTokens, quad + 2, t, x);
        chunk = hn::Or(chunk, hn::ShiftLeft<4>(PackQuad<kBits>(x, zs, is)));
        From::Load(page, kPageTokens, quad + 3, t, x);
        chunk = hn::Or(chunk, hn::ShiftLeft<6>(PackQuad<kBits>(x, zs, is)));
      }
      hn::StoreU(chunk, DQU(), reinterpret_cast<uint32_t*>(out + quad / kQuads * 64));
    }
  }
}

template <class From, size_t kBits>
void ValueCodes(const uint8_t* page, size_t dim, size_t begin, size_t end, const float* z,
                const float* inverse, uint8_t* codes) {
  const DQ d;
  constexpr size_t kQuads = 8 / kBits;
  const auto pack = [&](size_t quad, size_t column) HWY_ATTR {
    VQ x[4], zs[4], is[4];
    From::Load(page, dim, quad, column, x);
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      zs[i] = hn::Set(d, z[4 * quad + i]);
      is[i] = hn::Set(d, inverse[4 * quad + i]);
    }
    return PackQuad<kBits>(x, zs, is);
  };
  for (size_t column = begin; column < end; column += hn::Lanes(d)) {
    uint8_t* out = codes + column / 16 * 64 * kBits + column % 16 * 4;
    for (size_t quad = 0; quad < kPageTokens / 4; quad += kQuads) {
      VQU chunk = pack(quad, column);
      if constexpr (kQuads >= 2)
        chunk = hn::Or(chunk, hn::ShiftLeft<kBits % 8>(pack(quad + 1, column)));
      if constexpr (kQuads == 4) {
        chunk = hn::Or(chunk, hn::ShiftLeft<4>(pack(quad + 2, column)));
        chunk = hn::Or(chunk, hn::ShiftLeft<6>(pack(quad + 3, column)));
      }
      hn::StoreU(chunk, DQU(), reinterpret_cast<uint32_t*>(out + quad / kQuads * 64));
    }
  }
}

void KvRange(bool is_key, KvFormat from, const uint8_t* page, size_t dim, size_t begin, size_t end,
             float* least, float* most) {
  const bool f16 = from == KvFormat::kF16;
  if (is_key)
    return f16 ? KeyRange<FromF16>(page, begin, end, least, most)
               : KeyRange<FromBF16>(page, begin, end, least, most);
  return f16 ? ValueRange<FromF16>(page, dim, begin, end, least, most)
             : ValueRange<FromBF16>(page, dim, begin, end, least, most);
}

template <class From>
void CodesFrom(bool is_key, KvFormat to, const uint8_t* page, size_t dim, size_t begin, size_t end,
               const float* z, const float* inverse, uint8_t* codes) {
  if (to == KvFormat::kInt8)
    return is_key ? KeyCodes<From, 8>(page, dim, begin, end, z, inverse, codes)
                  : ValueCodes<From, 8>(page, dim, begin, end, z, inverse, codes);
  if (to == KvFormat::kInt4)
    return is_key ? KeyCodes<From, 4>(page, dim, begin, end, z, inverse, codes)
                  : ValueCodes<From, 4>(page, dim, begin, end, z, inverse, codes);
  return is_key ? KeyCodes<From, 2>(page, dim, begin, end, z, inverse, codes)
                : ValueCodes<From, 2>(page, dim, begin, end, z, inverse, codes);
}

void KvCodes(bool is_key, KvFormat from, KvFormat to, const uint8_t* page, size_t dim, size_t begin,
             size_t end, const float* z, const float* inverse, uint8_t* codes) {
  return from == KvFormat::kF16
             ? CodesFrom<FromF16>(is_key, to, page, dim, begin, end, z, inverse, codes)
             : CodesFrom<FromBF16>(is_key, to, page, dim, begin, end, z, inverse, codes);
}

using DQ16 = hn::CappedTag<uint16_t, 32>;
using VQ16 = hn::Vec<DQ16>;

// Bytes of one 8-bit code each to codes of 4 bit: nearest to c / 17.
HWY_INLINE VQ16 Narrow8(VQ16 x) {
  const DQ16 d;
  const auto to4 = [&](VQ16 c) HWY_ATTR {
    return hn::ShiftRight<8>(hn::Add(hn::Sub(hn::ShiftLeft<4>(c), c), hn::Set(d, uint16_t{135})));
  };
  return hn::Or(to4(hn::And(x, hn::Set(d, uint16_t{0x00FF}))),
                hn::ShiftLeft<8>(to4(hn::ShiftRight<8>(x))));
}

// Bytes of two 4-bit codes each to two of 2 bit: nearest to c / 5. The products fit a byte.
HWY_INLINE VQ16 Narrow4(VQ16 x) {
  const DQ16 d;
  const VQ16 nibbles = hn::Set(d, uint16_t{0x0F0F});
  const auto to2 = [&](VQ16 c) HWY_ATTR {
    const VQ16 product =
        hn::Mul(hn::Add(c, hn::Set(d, uint16_t{0x0202})), hn::Set(d, uint16_t{13}));
    return hn::And(hn::ShiftRight<6>(product), hn::Set(d, uint16_t{0x0303}));
  };
  return hn::Or(to2(hn::And(x, nibbles)),
                hn::ShiftLeft<2>(to2(hn::And(hn::ShiftRight<4>(x), nibbles))));
}

// Chunks of `from` bits to `num_chunks` of `to` bits. All of an output's inputs are read before it
// is written, and it lies at or before them.
void ShrinkCodes(const uint8_t* in, size_t from, size_t to, size_t num_chunks, uint8_t* out) {
  const DQ16 d;
  for (size_t j = 0; j < num_chunks; ++j, in += 64 * from / to, out += 64) {
    for (size_t i = 0; i < 64; i += 2 * hn::Lanes(d)) {
      const auto load = [&](size_t chunk) HWY_ATTR {
        return hn::LoadU(d, reinterpret_cast<const uint16_t*>(in + chunk * 64 + i));
      };
      const auto load4 = [&](size_t chunk) HWY_ATTR {
        return hn::Or(Narrow8(load(chunk)), hn::ShiftLeft<4>(Narrow8(load(chunk + 1))));
      };
      VQ16 packed;
      if (from == 8 && to == 4)
        packed = load4(0);
      else if (from == 8)
        packed = hn::Or(Narrow4(load4(0)), hn::ShiftLeft<4>(Narrow4(load4(2))));
      else
        packed = hn::Or(Narrow4(load(0)), hn::ShiftLeft<4>(Narrow4(load(1))));
      hn::StoreU(packed, d, reinterpret_cast<uint16_t*>(out + i));
    }
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
