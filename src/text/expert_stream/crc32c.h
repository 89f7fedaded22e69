// CRC32C (Castagnoli, RFC 3720 §12.1) of a buffer, with the CPU's instruction where it has one, and
// of a record's eight parts, four at once: one stream of such instructions waits three cycles for
// each, four streams keep up with memory. A record's halves may be summed by two cores.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weft::text {

uint32_t crc32c(const uint8_t* data, size_t size);

using RecordChecksum = std::array<uint32_t, 8>;
using HalfChecksum = std::array<uint32_t, 4>;
// `size`, of the whole record, is a multiple of 64; `half` is 0 or 1.
HalfChecksum half_checksum(const uint8_t* data, size_t size, size_t half);
RecordChecksum record_checksum(const uint8_t* data, size_t size);

}  // namespace weft::text
