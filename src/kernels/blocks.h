// The block formats of ggml, byte by byte. All are little-endian, packed, and start at any address
// (the structs have alignment 1; f16 numbers are their bits).
//
// Blocks of 32 values; `q` is a code, `d` the scale, `m` the minimum. Codes of values 0-15 are the
// low nibbles of qs, those of values 16-31 the high ones; qh holds the fifth bits, bit i for value
// i.
//
//   Q4_0  | d f16 |               qs[16] |   x = d * (q - 8)
//   Q4_1  | d f16 | m f16 |       qs[16] |   x = d * q + m
//   Q5_0  | d f16 | qh[4] |       qs[16] |   x = d * (q - 16)
//   Q5_1  | d f16 | m f16 | qh[4] | qs[16] | x = d * q + m
//   Q8_0  | d f16 | qs[32] int8          |   x = d * q
//
// K-quants: super-blocks of 256 values, cut into sub-blocks of 16 or 32 that have small integer
// scales of their own. x = d * scale * q - dmin * min, or x = d * scale * (q - middle).
//
//   Q2_K  | scales[16] | qs[64] | d | dmin |         16 sub-blocks of 16; scale = low, min = high
//   nibble Q3_K  | hmask[32] | qs[64] | scales[12] | d |    16 of 16; q - 4, 6-bit scales less 32
//   Q4_K  | d | dmin | scales[12] | qs[128] |        8 of 32; 6-bit scales and mins
//   Q5_K  | d | dmin | scales[12] | qh[32] | qs[128] |
//   Q6_K  | ql[128] | qh[64] | scales[16] int8 | d | 16 of 16; q - 32
//
//   Where the bits of value i are (g = i / 32 its group, l = i % 32):
//   2-bit qs (Q2_K, Q3_K)   byte 32 * (g / 4) + l, shift 2 * (g % 4)
//   Q3_K hmask, Q5_K qh     byte l, bit g
//   4-bit qs (Q4_K, Q5_K)   byte 32 * (g / 2) + l, nibble g % 2
//   Q6_K ql                 byte 64 * (g / 4) + 32 * (g % 2) + l, nibble (g / 2) % 2
//   Q6_K qh                 byte 32 * (g / 4) + l, shift 2 * (g % 4)
//
//   Packed 6-bit scales (A-H) and mins (a-h) of Q4_K and Q5_K, high bit first:
//     bytes 0-3  EEAAAAAA FFBBBBBB GGCCCCCC HHDDDDDD
//     bytes 4-7  eeaaaaaa ffbbbbbb ggcccccc hhdddddd
//     bytes 8-11 eeeeEEEE ffffFFFF ggggGGGG hhhhHHHH
//   and of Q3_K's 16 scales (A-P):
//     bytes 0-7  IIIIAAAA JJJJBBBB KKKKCCCC LLLLDDDD MMMMEEEE NNNNFFFF OOOOGGGG PPPPHHHH
//     bytes 8-11 MMIIEEAA NNJJFFBB OOKKGGCC PPLLHHDD
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace weft::kernels {

inline constexpr size_t kBlock = 32;        // values in a plain block
inline constexpr size_t kSuperBlock = 256;  // values in a K-quant block

#pragma pack(push, 1)
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};
struct BlockQ4_1 {
  uint16_t d, m;
  uint8_t qs[16];
};
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4], qs[16];
};
struct BlockQ5_1 {
  uint16_t d, m;
  uint8_t qh[4], qs[16];
};
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};
struct BlockQ2_K {
  uint8_t scales[16], qs[64];
  uint16_t d, dmin;
};
struct BlockQ3_K {
  uint8_t hmask[32], qs[64], scales[12];
  uint16_t d;
};
struct BlockQ4_K {
  uint16_t d, dmin;
  uint8_t scales[12], qs[128];
};
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12], qh[32], qs[128];
};
struct BlockQ6_K {
  uint8_t ql[128], qh[64];
  int8_t scales[16];
  uint16_t d;
};
#pragma pack(pop)

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210 && alignof(BlockQ6_K) == 1);

// The 6-bit scales and mins of Q4_K and Q5_K.
inline void unpack_scales_mins(const uint8_t packed[12], uint8_t scales[8], uint8_t mins[8]) {
  for (size_t j = 0; j < 4; ++j) {
    scales[j] = packed[j] & 63;
    mins[j] = packed[4 + j] & 63;
    scales[4 + j] = static_cast<uint8_t>((packed[8 + j] & 15) | (packed[j] >> 6 << 4));
    mins[4 + j] = static_cast<uint8_t>((packed[8 + j] >> 4) | (packed[4 + j] >> 6 << 4));
  }
}

inline void pack_scales_mins(const uint8_t scales[8], const uint8_t mins[8], uint8_t packed[12]) {
  for (size_t j = 0; j < 4; ++j) {
    packed[j] = static_cast<uint8_t>(scales[j] | (scales[4 + j] >> 4 << 6));
    packed[4 + j] = static_cast<uint8_t>(mins[j] | (mins[4 + j] >> 4 << 6));
    packed[8 + j] = static_cast<uint8_t>((scales[4 + j] & 15) | (mins[4 + j] << 4));
  }
}

// Q3_K's 6-bit scales, 0 to 63; 32 stands for zero.
inline void unpack_q3_scales(const uint8_t packed[12], uint8_t scales[16]) {
  for (size_t j = 0; j < 16; ++j) {
    const int low = packed[j % 8] >> (j / 8 * 4) & 15;
    const int high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
    scales[j] = static_cast<uint8_t>(low | high << 4);
  }
}

inline void pack_q3_scales(const uint8_t scales[16], uint8_t packed[12]) {
  std::memset(packed, 0, 12);
  for (size_t j = 0; j < 16; ++j) {
    packed[j % 8] |= static_cast<uint8_t>((scales[j] & 15) << (j / 8 * 4));
    packed[8 + j % 4] |= static_cast<uint8_t>(scales[j] >> 4 << (j / 4 * 2));
  }
}

}  // namespace weft::kernels
