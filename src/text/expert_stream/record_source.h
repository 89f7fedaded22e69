// Where records of experts are read from: a pack, or the three matrices in the model's own file,
// which are packed after each read. Thread-safe: several readers may be at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

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
  // Fills `record` (records().layouts[group].bytes, 4 KiB aligned). Returns the bytes that were
  // read. kIo: the system refuses, or the file is shorter than it was; kInvalidInput: a checksum is
  // wrong. Each names file, group, expert and offset.
  virtual size_t read(size_t group, size_t expert, uint8_t* record) = 0;
  virtual std::string describe() const = 0;  // "model.gguf.experts, direct"
};

// How much memory there is for this process: of its control group, else of the machine.
size_t memory_limit();

// A pack that belongs to the model. Errors as read_pack_index.
std::unique_ptr<RecordSource> open_pack_source(const std::filesystem::path& path,
                                               const RecordTable& records, uint64_t identity,
                                               ExpertIo io);
// `checkpoint` outlives it.
std::unique_ptr<RecordSource> open_slice_source(models::ExpertTable table,
                                                const formats::Checkpoint& checkpoint,
                                                const RecordTable& records, ExpertIo io);
// Lets pass at most so many bytes a second, as a slower disk would (benches).
std::unique_ptr<RecordSource> slow_down(std::unique_ptr<RecordSource> source,
                                        double bytes_per_second);

}  // namespace weft::text
