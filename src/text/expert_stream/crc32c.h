// CRC32C (Castagnoli, RFC 3720 §12.1) of a buffer, with the CPU's instruction where it has one, and
// of a record's four quarters at once: one stream of such instructions waits three cycles for each,
// four streams keep up with memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weft::text {

uint32_t crc32c(const uint8_t* data, size_t size);

using RecordChecksum = std::array<uint32_t, 4>;
// `size` is a multiple of 32.
RecordChecksum record_checksum(const uint8_t* data, size_t size);

}  // namespace weft::text
