#include "text/expert_stream/expert_records.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <type_traits>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

namespace weft::text {
namespace {

using kernels::Linear;
using models::ExpertMatrices;
using models::ExpertTable;

constexpr char kMagic[8] = {'W', 'E', 'F', 'T', 'X', 'P', 'K', '1'};
constexpr uint32_t kVersion = 2;
constexpr uint32_t kPanelLayout = 1;  // of kernels/panel_layout.h: another number when that changes

struct Header {
  char magic[8];
  uint32_t version, panel_layout;
  uint64_t identity, num_records, index_offset;
};
static_assert(sizeof(Header) == 40 && std::is_trivially_copyable_v<Header>);

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

RecordLayout::Matrix place(const TensorView& view, size_t& at) {
  const RecordLayout::Matrix matrix{view.dtype, view.shape[0], view.shape[1], at};
  at = round_up(at + Linear::packed_bytes(view.dtype, view.shape[0], view.shape[1]), 64);
  return matrix;
}

class Hash {  // FNV-1a
 public:
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < size; ++i) value_ = (value_ ^ bytes[i]) * 0x100000001B3ULL;
  }
  void add(const std::string& text) { add(text.data(), text.size() + 1); }
  void add(uint64_t number) { add(&number, sizeof(number)); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xCBF29CE484222325ULL;
};

size_t index_bytes(const RecordTable& records) {
  return records.num_records() * sizeof(RecordChecksum) + sizeof(uint32_t);
}

}  // namespace

RecordLayout::RecordLayout(const ExpertMatrices& expert) {
  size_t at = 0;
  gate = place(expert.gate, at);
  up = place(expert.up, at);
  down = place(expert.down, at);
  bytes = round_up(at, kRecordAlignment);
}

models::Mlp RecordLayout::expert_at(const uint8_t* record) const {
  const auto over = [&](const Matrix& m) {  // an alias of nothing: the slot's owner keeps it alive
    return Linear::over(m.dtype, m.out_features, m.in_features,
                        std::shared_ptr<const uint8_t>(std::shared_ptr<void>(), record + m.offset));
  };
  return {over(gate), over(up), over(down)};
}

void RecordLayout::pack(const ExpertMatrices& expert, const CoreSet& cores, uint8_t* record) const {
  std::memset(record + bytes - kRecordAlignment, 0, kRecordAlignment);
  Linear::pack_into(expert.gate, cores, record + gate.offset);
  Linear::pack_into(expert.up, cores, record + up.offset);
  Linear::pack_into(expert.down, cores, record + down.offset);
}

RecordTable::RecordTable(const ExpertTable& table) : experts_per_group(table.experts_per_group) {
  index_offset = kRecordAlignment;
  for (size_t g = 0; g < table.num_groups; ++g) {
    const RecordLayout& layout = layouts.emplace_back(table.at(g, 0));
    first_offset.push_back(index_offset);
    index_offset += experts_per_group * layout.bytes;
    largest_bytes = std::max(largest_bytes, layout.bytes);
  }
}

uint64_t model_identity(const formats::Checkpoint& checkpoint, const ExpertTable& table) {
  Hash hash;
  hash.add(checkpoint.architecture());
  for (const std::string& name : checkpoint.tensor_names()) {
    const TensorView view = checkpoint.require(name);
    hash.add(name);
    hash.add(static_cast<uint64_t>(view.dtype));
    for (size_t i = 0; i < view.shape.rank(); ++i) hash.add(view.shape[i]);
  }
  // Read, not looked at in the map: the system maps whole stretches around each page that is looked
  // at, and they would stay in this process's memory.
  constexpr size_t kSample = 256;
  std::map<std::filesystem::path, std::ifstream> files;
  for (const ExpertMatrices& expert : table.experts)
    for (const TensorView* view : {&expert.gate, &expert.up, &expert.down}) {
      const auto where = checkpoint.locate(view->data);
      std::ifstream& file = files[where.file];
      if (!file.is_open()) file.open(where.file, std::ios::binary);
      std::array<char, kSample> sample{};
      const size_t size = std::min(kSample, view->bytes());
      file.seekg(static_cast<std::streamoff>(where.offset));
      file.read(sample.data(), static_cast<std::streamsize>(size));
      if (!file)
        fail(ErrorKind::kIo, "{}: cannot read {} bytes at {}", where.file.string(), size,
             where.offset);
      hash.add(sample.data(), size);
    }
  return hash.value();
}

void write_pack(const std::filesystem::path& path, const ExpertTable& table,
                const formats::Checkpoint& checkpoint, const CoreSet& cores, StopToken stop,
                const ProgressFn& progress) {
  const RecordTable records(table);
  Header header{{},
                kVersion,
                kPanelLayout,
                model_identity(checkpoint, table),
                records.num_records(),
                records.index_offset};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  std::array<uint8_t, kRecordAlignment> page{};
  std::memcpy(page.data(), &header, sizeof(header));

  AtomicFile file(path);
  file.write(page.data(), page.size());
  Buffer record(records.largest_bytes, "a record of an expert");
  std::vector<RecordChecksum> index;
  for (size_t g = 0; g < table.num_groups; ++g)
    for (size_t e = 0; e < table.experts_per_group; ++e) {
      stop.throw_if_stopped();
      const ExpertMatrices& expert = table.at(g, e);
      const RecordLayout& layout = records.layouts[g];
      layout.pack(expert, cores, record.data());
      file.write(record.data(), layout.bytes);
      index.push_back(record_checksum(record.data(), layout.bytes));
      // The one before too: its end was mapped again with the beginning of this one.
      for (const ExpertMatrices* used : {&table.at(g, e == 0 ? 0 : e - 1), &expert})
        for (const TensorView* view : {&used->gate, &used->up, &used->down})
          checkpoint.release(*view);
      if (progress) progress(file.position(), records.index_offset);
    }
  const auto* bytes = reinterpret_cast<const uint8_t*>(index.data());
  const uint32_t crc = crc32c(bytes, index.size() * sizeof(RecordChecksum));
  file.write(bytes, index.size() * sizeof(RecordChecksum));
  file.write(&crc, sizeof(crc));
  file.commit();
}

std::vector<RecordChecksum> read_pack_index(const std::filesystem::path& path,
                                            const RecordTable& records, uint64_t identity) {
  const auto file = MappedFile::open(path);
  const auto refuse = [&](const char* why) {
    fail(ErrorKind::kInvalidInput,
         "{}: {}. Delete it, and it will be made again, or name another with --expert-pack.",
         path.string(), why);
  };
  Header header{};
  if (file->bytes().size() < kRecordAlignment) refuse("is too short for a pack of experts");
  std::memcpy(&header, file->bytes().data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) refuse("is no pack of experts");
  if (header.version != kVersion || header.panel_layout != kPanelLayout)
    refuse("was packed by another version of this program");
  if (header.identity != identity || header.num_records != records.num_records() ||
      header.index_offset != records.index_offset)
    refuse("is the pack of another model");
  if (file->bytes().size() != records.index_offset + index_bytes(records))
    refuse("has been cut off or extended");
  std::vector<RecordChecksum> index(records.num_records());
  const uint8_t* const at = file->bytes().data() + records.index_offset;
  std::memcpy(index.data(), at, index.size() * sizeof(RecordChecksum));
  uint32_t crc = 0;
  std::memcpy(&crc, at + index.size() * sizeof(RecordChecksum), sizeof(crc));
  if (crc != crc32c(at, index.size() * sizeof(RecordChecksum))) refuse("has a damaged index");
  return index;
}

}  // namespace weft::text
