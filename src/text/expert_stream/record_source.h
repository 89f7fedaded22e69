// Where records of experts are read from: a pack, or the three matrices in the model's own file,
// which are packed after each read. Thread-safe: several readers may be at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "models/expert_store.h"
#include "text/expert_stream/expert_records.h"

namespace weft::text {

enum class ExpertIo : uint8_t {
  kAuto,    // cached where the file fits into memory well, direct where it does not
  kDirect,  // past the page cache; cached where the file system cannot
  kCached,  // read() through the page cache
  kMmap,    // copied out of a memory map
};

class RecordSource {
 public:
  virtual ~RecordSource() = default;
  struct Record {
    const uint8_t* at = nullptr;  // `room`, or memory of the source's own
    size_t bytes_read = 0;
  };
  // Into `room` (records().layouts[group].bytes, 4 KiB aligned). kIo: the system refuses, or the
  // file is shorter than it was; names file, group, expert and offset.
  virtual Record read(size_t group, size_t expert, uint8_t* room) = 0;
  // What is wrong with half of a record (0 or 1) that was read: its checksum, by name as above.
  // Apart from read(), which waits for the disk: this computes, and is for the cores that compute.
  virtual std::optional<Error> check(size_t /*group*/, size_t /*expert*/, const uint8_t* /*record*/,
                                     size_t /*half*/) const {
    return std::nullopt;
  }
  virtual std::string describe() const = 0;  // "model.gguf.experts, direct"
};

// How much memory there is for this process: the least limit of its control groups, else the
// machine.
size_t memory_limit();

// A pack that belongs to the model. Errors as read_pack_index.
std::unique_ptr<RecordSource> open_pack_source(const std::filesystem::path& path,
                                               const RecordTable& records, uint64_t identity,
                                               ExpertIo io);
// `checkpoint` outlives it.
std::unique_ptr<RecordSource> open_slice_source(models::ExpertTable table,
                                                const formats::Checkpoint& checkpoint,
                                                const RecordTable& records, ExpertIo io);
// For benches: a disk of so many bytes a second, which reads one record after the other. The whole
// pack is in memory, and a record is computed with where it lies: as with a disk's own transfers,
// no core copies.
std::unique_ptr<RecordSource> open_emulated_disk(const std::filesystem::path& pack,
                                                 const RecordTable& records, uint64_t identity,
                                                 double bytes_per_second);

}  // namespace weft::text
