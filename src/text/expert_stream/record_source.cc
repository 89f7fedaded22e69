#include "text/expert_stream/record_source.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

namespace weft::text {
namespace {

namespace fs = std::filesystem;
using models::ExpertTable;

// A file that ranges are read from, in one of three ways.
class RangeFile {
 public:
  RangeFile(std::filesystem::path path, ExpertIo io) : path_(std::move(path)), io_(choose(io)) {
    if (io_ == ExpertIo::kMmap) map_ = MappedFile::open(path_);
    if (io_ == ExpertIo::kDirect && !open_direct()) io_ = ExpertIo::kCached;
    if (io_ != ExpertIo::kDirect) fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail(ErrorKind::kIo, "{}: cannot open: {}", path_.string(), std::strerror(errno));
  }
  ~RangeFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  RangeFile(const RangeFile&) = delete;
  RangeFile& operator=(const RangeFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  ExpertIo io() const { return io_; }

  // [offset, offset + size) to `out`. Where offset, size and out are whole 4 KiB, nothing else is
  // touched; else `bounce` takes the pages around them. Returns the bytes that the system read.
  size_t read(size_t offset, size_t size, uint8_t* out, Scratch<uint8_t>& bounce) const {
    if (io_ == ExpertIo::kMmap && copy_from_map(offset, size, out)) return size;
    const size_t begin = offset / kRecordAlignment * kRecordAlignment;
    const size_t end = (offset + size + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
    const bool aligned = begin == offset && end == offset + size &&
                         reinterpret_cast<uintptr_t>(out) % kRecordAlignment == 0;
    if (io_ != ExpertIo::kDirect || aligned) {
      read_all(offset, size, size, out);
      return size;
    }
    uint8_t* const pages = bounce.need(end - begin);
    read_all(begin, end - begin, offset + size - begin, pages);
    std::memcpy(out, pages + (offset - begin), size);
    return end - begin;
  }

 private:
  // By the system's hand: where the file has become shorter it says so, and memcpy would end the
  // process. False where the system does not do that.
  bool copy_from_map(size_t offset, size_t size, uint8_t* out) const {
    const iovec to{out, size};
    const iovec from{const_cast<uint8_t*>(map_->bytes().data()) + offset, size};
    if (offset + size > map_->bytes().size()) fail_short(offset, size);
    const ssize_t n = ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0);
    if (n < 0 && errno != EFAULT) return false;
    if (n != static_cast<ssize_t>(size)) fail_short(offset, size);
    // The copy is in the budget, the map is not: nor what the system has mapped around, up to 2 MiB.
    map_->release(map_->bytes().data(), map_->bytes().size());
    return true;
  }

  ExpertIo choose(ExpertIo io) const {
    if (io != ExpertIo::kAuto) return io;
    // Through the page cache as long as it holds the file beside what else there is.
    constexpr double kFits = 0.7;
    struct stat status {};
    if (::stat(path_.c_str(), &status) != 0) return ExpertIo::kCached;
    const double bytes = static_cast<double>(status.st_size);
    return bytes < kFits * static_cast<double>(memory_limit()) ? ExpertIo::kCached
                                                               : ExpertIo::kDirect;
  }

  // Some file systems take O_DIRECT and refuse the reads: one is tried.
  bool open_direct() {
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd_ < 0) return false;
    Buffer page(kRecordAlignment, "a page to try direct reads");
    if (::pread(fd_, page.data(), kRecordAlignment, 0) >= 0) return true;
    ::close(std::exchange(fd_, -1));
    return false;
  }

  // `needed` of the `size` bytes must come: the last page of a file may be cut.
  void read_all(size_t offset, size_t size, size_t needed, uint8_t* out) const {
    size_t done = 0;
    while (done < needed) {
      const ssize_t n = ::pread(fd_, out + done, size - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        fail(ErrorKind::kIo, "{}: cannot read {} bytes at {}: {}", path_.string(), size, offset,
             std::strerror(errno));
      if (n == 0) fail_short(offset, needed);
      done += static_cast<size_t>(n);
    }
  }

  [[noreturn]] void fail_short(size_t offset, size_t size) const {
    fail(ErrorKind::kIo, "{}: ends before byte {}: it has become shorter since it was opened",
         path_.string(), offset + size);
  }

  std::filesystem::path path_;
  ExpertIo io_;
  int fd_ = -1;
  std::shared_ptr<const MappedFile> map_;
};

const char* name_of(ExpertIo io) {
  switch (io) {
    case ExpertIo::kDirect:
      return "direct";
    case ExpertIo::kCached:
      return "cached";
    case ExpertIo::kMmap:
      return "mapped";
    case ExpertIo::kAuto:
      break;
  }
  return "auto";
}

Error with_expert(const Error& error, size_t group, size_t expert) {
  return error.in(fmt::format("expert {} of group {}", expert, group));
}

// The checksums of a pack.
class PackIndex {
 public:
  PackIndex(const std::filesystem::path& path, const RecordTable& records, uint64_t identity)
      : path_(path), records_(records), sums_(read_pack_index(path, records, identity)) {}

  const RecordTable& records() const { return records_; }
  std::optional<Error> check(size_t group, size_t expert, const uint8_t* record,
                             size_t half) const {
    const RecordChecksum& want = sums_[group * records_.experts_per_group + expert];
    const HalfChecksum sums = half_checksum(record, records_.layouts[group].bytes, half);
    if (std::equal(sums.begin(), sums.end(), want.begin() + 4 * static_cast<ptrdiff_t>(half)))
      return std::nullopt;
    return with_expert(Error(ErrorKind::kInvalidInput,
                             fmt::format("{}: the record at byte {} is damaged (its checksum is "
                                         "wrong). Delete the pack, and it will be made again.",
                                         path_.string(), records_.offset(group, expert))),
                       group, expert);
  }

 private:
  std::filesystem::path path_;
  RecordTable records_;
  std::vector<RecordChecksum> sums_;  // by record
};

class PackSource final : public RecordSource {
 public:
  PackSource(const std::filesystem::path& path, const RecordTable& records, uint64_t identity,
             ExpertIo io)
      : index_(path, records, identity), file_(path, io) {}

  Record read(size_t group, size_t expert, uint8_t* room) override try {
    thread_local Scratch<uint8_t> bounce;
    const RecordTable& records = index_.records();
    return {room,
            file_.read(records.offset(group, expert), records.layouts[group].bytes, room, bounce)};
  } catch (const Error& error) {
    throw with_expert(error, group, expert);
  }
  std::optional<Error> check(size_t group, size_t expert, const uint8_t* record,
                             size_t half) const override {
    return index_.check(group, expert, record, half);
  }
  std::string describe() const override {
    return fmt::format("{}, {}", file_.path().string(), name_of(file_.io()));
  }

 private:
  PackIndex index_;
  RangeFile file_;
};

class SliceSource final : public RecordSource {
 public:
  SliceSource(ExpertTable table, const formats::Checkpoint& checkpoint, const RecordTable& records,
              ExpertIo io)
      : table_(std::move(table)), checkpoint_(checkpoint), records_(records) {
    for (const models::ExpertMatrices& expert : table_.experts)
      for (const TensorView* view : {&expert.gate, &expert.up, &expert.down}) {
        const auto path = checkpoint_.locate(view->data).file;
        if (!files_.contains(path)) files_.emplace(path, std::make_unique<RangeFile>(path, io));
      }
  }

  Record read(size_t group, size_t expert, uint8_t* room) override try {
    thread_local Scratch<uint8_t> bounce, slices;
    models::ExpertMatrices matrices = table_.at(group, expert);
    size_t total = 0, bytes = 0;
    for (const TensorView* view : {&matrices.gate, &matrices.up, &matrices.down})
      total += view->bytes();
    uint8_t* at = slices.need(total);
    for (TensorView* view : {&matrices.gate, &matrices.up, &matrices.down}) {
      const auto where = checkpoint_.locate(view->data);
      bytes += files_.at(where.file)->read(where.offset, view->bytes(), at, bounce);
      view->data = at;
      at += view->bytes();
    }
    records_.layouts[group].pack(matrices, CoreSet(), room);
    return {room, bytes};
  } catch (const Error& error) {
    throw with_expert(error, group, expert);
  }

  std::string describe() const override {
    const auto& [path, file] = *files_.begin();
    return fmt::format("{}, {}, packed after each read", path.string(), name_of(file->io()));
  }

 private:
  ExpertTable table_;
  const formats::Checkpoint& checkpoint_;
  RecordTable records_;
  std::map<std::filesystem::path, std::unique_ptr<RangeFile>> files_;
};

class EmulatedDisk final : public RecordSource {
 public:
  EmulatedDisk(const std::filesystem::path& pack, const RecordTable& records, uint64_t identity,
               double bytes_per_second)
      : index_(pack, records, identity),
        pack_(fs::file_size(pack), "a pack of experts"),
        bytes_per_second_(bytes_per_second) {
    const auto file = MappedFile::open(pack);
    std::memcpy(pack_.data(), file->bytes().data(), std::min(pack_.bytes(), file->bytes().size()));
  }

  Record read(size_t group, size_t expert, uint8_t* /*room*/) override {
    thread_local const int exact = ::prctl(PR_SET_TIMERSLACK, 1000);  // ns: disks do not oversleep
    static_cast<void>(exact);
    const Clock::time_point asked = Clock::now();
    const size_t bytes = index_.records().layouts[group].bytes;
    Clock::time_point done;
    {
      const std::lock_guard lock(mutex_);
      free_at_ = std::max(free_at_, asked) +
                 std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(static_cast<double>(bytes) / bytes_per_second_));
      done = free_at_;
    }
    std::this_thread::sleep_until(done);
    return {pack_.data() + index_.records().offset(group, expert), bytes};
  }
  std::optional<Error> check(size_t group, size_t expert, const uint8_t* record,
                             size_t half) const override {
    return index_.check(group, expert, record, half);
  }
  std::string describe() const override {
    return fmt::format("an emulated disk of {:.2f} GB/s", bytes_per_second_ * 1e-9);
  }

 private:
  using Clock = std::chrono::steady_clock;
  PackIndex index_;
  Buffer pack_;
  double bytes_per_second_;
  std::mutex mutex_;  // guards free_at_
  Clock::time_point free_at_{};
};

}  // namespace

size_t memory_limit() {
  size_t limit =
      static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  // Lines of "number:controllers:/group"; a group is limited by those above it too.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && controllers.find("memory") == std::string::npos) continue;
    const fs::path mount = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (fs::path group = line.substr(second + 1);; group = group.parent_path()) {
      size_t bytes = 0;
      const fs::path file =
          mount / group.relative_path() / (unified ? "memory.max" : "memory.limit_in_bytes");
      if (std::ifstream(file) >> bytes && bytes != 0) limit = std::min(limit, bytes);
      if (!group.has_relative_path()) break;
    }
  }
  return limit;
}

std::unique_ptr<RecordSource> open_pack_source(const std::filesystem::path& path,
                                               const RecordTable& records, uint64_t identity,
                                               ExpertIo io) {
  return std::make_unique<PackSource>(path, records, identity, io);
}

std::unique_ptr<RecordSource> open_slice_source(models::ExpertTable table,
                                                const formats::Checkpoint& checkpoint,
                                                const RecordTable& records, ExpertIo io) {
  return std::make_unique<SliceSource>(std::move(table), checkpoint, records, io);
}

std::unique_ptr<RecordSource> open_emulated_disk(const std::filesystem::path& pack,
                                                 const RecordTable& records, uint64_t identity,
                                                 double bytes_per_second) {
  return std::make_unique<EmulatedDisk>(pack, records, identity, bytes_per_second);
}

}  // namespace weft::text
