#include "text/expert_stream/record_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

namespace weft::text {
namespace {

using models::ExpertTable;

// A file that ranges are read from, in one of three ways.
class RangeFile {
 public:
  RangeFile(std::filesystem::path path, ExpertIo io) : path_(std::move(path)), io_(choose(io)) {
    if (io_ == ExpertIo::kMmap) {
      map_ = MappedFile::open(path_);
      return;
    }
    if (io_ == ExpertIo::kDirect && !open_direct()) io_ = ExpertIo::kCached;
    if (io_ == ExpertIo::kCached) fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
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
    if (io_ == ExpertIo::kMmap) {
      if (offset + size > map_->bytes().size()) fail_short(offset, size);
      std::memcpy(out, map_->bytes().data() + offset, size);
      return size;
    }
    const size_t begin = offset / kRecordAlignment * kRecordAlignment;
    const size_t end = (offset + size + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
    const bool aligned = begin == offset && end == offset + size &&
                         reinterpret_cast<uintptr_t>(out) % kRecordAlignment == 0;
    if (io_ == ExpertIo::kCached || aligned) {
      read_all(offset, size, size, out);
      return size;
    }
    uint8_t* const pages = bounce.need(end - begin);
    read_all(begin, end - begin, offset + size - begin, pages);
    std::memcpy(out, pages + (offset - begin), size);
    return end - begin;
  }

 private:
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

class PackSource final : public RecordSource {
 public:
  PackSource(const std::filesystem::path& path, const RecordTable& records,
             std::vector<RecordChecksum> index, ExpertIo io)
      : file_(path, io), records_(records), index_(std::move(index)) {}

  size_t read(size_t group, size_t expert, uint8_t* record) override try {
    const size_t size = records_.layouts[group].bytes, offset = records_.offset(group, expert);
    thread_local Scratch<uint8_t> bounce;
    const size_t bytes = file_.read(offset, size, record, bounce);
    if (record_checksum(record, size) != index_[group * records_.experts_per_group + expert])
      fail(ErrorKind::kInvalidInput,
           "{}: the record at byte {} is damaged (its checksum is wrong). Delete the pack, and it "
           "will "
           "be made again.",
           file_.path().string(), offset);
    return bytes;
  } catch (const Error& error) {
    throw with_expert(error, group, expert);
  }

  std::string describe() const override {
    return fmt::format("{}, {}", file_.path().string(), name_of(file_.io()));
  }

 private:
  RangeFile file_;
  RecordTable records_;
  std::vector<RecordChecksum> index_;
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

  size_t read(size_t group, size_t expert, uint8_t* record) override try {
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
    records_.layouts[group].pack(matrices, CoreSet(), record);
    return bytes;
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

class SlowSource final : public RecordSource {
 public:
  SlowSource(std::unique_ptr<RecordSource> source, double bytes_per_second)
      : source_(std::move(source)), bytes_per_second_(bytes_per_second) {}

  size_t read(size_t group, size_t expert, uint8_t* record) override {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point asked = Clock::now();
    const size_t bytes = source_->read(group, expert, record);
    Clock::time_point done;
    {
      const std::lock_guard lock(mutex_);
      free_at_ = std::max(free_at_, asked) +
                 std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(static_cast<double>(bytes) / bytes_per_second_));
      done = free_at_;
    }
    std::this_thread::sleep_until(done);
    return bytes;
  }
  std::string describe() const override {
    return fmt::format("{}, at {:.2f} GB/s", source_->describe(), bytes_per_second_ * 1e-9);
  }

 private:
  std::unique_ptr<RecordSource> source_;
  double bytes_per_second_;
  std::mutex mutex_;  // guards free_at_
  std::chrono::steady_clock::time_point free_at_{};
};

}  // namespace

size_t memory_limit() {
  size_t limit =
      static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  for (const char* file :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    size_t bytes = 0;
    if (std::ifstream(file) >> bytes && bytes != 0) limit = std::min(limit, bytes);
  }
  return limit;
}

std::unique_ptr<RecordSource> open_pack_source(const std::filesystem::path& path,
                                               const RecordTable& records, uint64_t identity,
                                               ExpertIo io) {
  return std::make_unique<PackSource>(path, records, read_pack_index(path, records, identity), io);
}

std::unique_ptr<RecordSource> open_slice_source(models::ExpertTable table,
                                                const formats::Checkpoint& checkpoint,
                                                const RecordTable& records, ExpertIo io) {
  return std::make_unique<SliceSource>(std::move(table), checkpoint, records, io);
}

std::unique_ptr<RecordSource> slow_down(std::unique_ptr<RecordSource> source,
                                        double bytes_per_second) {
  return std::make_unique<SlowSource>(std::move(source), bytes_per_second);
}

}  // namespace weft::text
