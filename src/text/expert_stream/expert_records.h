// A streamed expert's record: its three matrices in the kernels' layout, gate | up | down, in one
// piece of memory and, in a pack file, of the file:
//
//   0     "WEFTXPK1"  u32 version  u32 layout of panels  u64 identity of the model
//         u64 records  u64 offset of the index
//   4096  records, group by group, each a whole number of 4 KiB pages
//   ...   index: u32[8] for each record, the CRC32C of its eighths; u32 CRC32C of the index before
//   it
//
// A pack is made once from a model's file, appears whole or not at all, and may be deleted at any
// time. It is refused when it belongs to another model or layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "models/expert_store.h"
#include "text/expert_stream/crc32c.h"

namespace weft::text {

inline constexpr size_t kRecordAlignment = 4096;  // of offsets and sizes, for O_DIRECT

// Where a group's experts' matrices lie in their records.
struct RecordLayout {
  struct Matrix {
    DType dtype = DType::kF32;
    size_t out_features = 0, in_features = 0, offset = 0;
  };
  Matrix gate, up, down;
  size_t bytes = 0;  // a multiple of kRecordAlignment

  explicit RecordLayout(const models::ExpertMatrices& expert);
  // The expert whose record lies at `record`, which outlives it.
  models::Mlp expert_at(const uint8_t* record) const;
  // Fills `record` from the matrices as they lie in the model's file.
  void pack(const models::ExpertMatrices& expert, const CoreSet& cores, uint8_t* record) const;
};

// All groups' layouts, and where each record is in a pack.
struct RecordTable {
  std::vector<RecordLayout> layouts;  // by group
  std::vector<size_t> first_offset;   // of the group's first record in a pack
  size_t experts_per_group = 0, index_offset = 0;
  size_t largest_bytes = 0;

  explicit RecordTable(const models::ExpertTable& table);
  size_t num_records() const { return layouts.size() * experts_per_group; }
  size_t offset(size_t group, size_t expert) const {
    return first_offset[group] + expert * layouts[group].bytes;
  }
};

// Tells models apart: hyper-parameters, names, types and shapes of tensors, and the beginning of
// each expert's matrices.
uint64_t model_identity(const formats::Checkpoint& checkpoint, const models::ExpertTable& table);

// kIo when the disk is full or the folder cannot be written: nothing is left behind. kCancelled.
void write_pack(const std::filesystem::path& path, const models::ExpertTable& table,
                const formats::Checkpoint& checkpoint, const CoreSet& cores, StopToken stop = {},
                const ProgressFn& progress = {});

// The checksums of a pack that belongs to the model. kInvalidInput says what it is instead;
// kNotFound.
std::vector<RecordChecksum> read_pack_index(const std::filesystem::path& path,
                                            const RecordTable& records, uint64_t identity);

}  // namespace weft::text
