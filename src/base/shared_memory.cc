#include "base/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace weft {
namespace {

constexpr size_t kHuge = size_t{2} << 20;

size_t round_up(size_t bytes) { return (bytes + kHuge - 1) / kHuge * kHuge; }

// At a multiple of a huge page's size, so that the system can use them (it does so for shared
// memory where /sys/kernel/mm/transparent_hugepage/shmem_enabled says advise or more).
uint8_t* map_aligned(int fd, size_t offset, size_t bytes, int protection) {
  void* const room =
      mmap(nullptr, bytes + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<uint8_t*>(room);
  const size_t before = (kHuge - reinterpret_cast<uintptr_t>(begin) % kHuge) % kHuge;
  uint8_t* const at = begin + before;
  if (before != 0) munmap(begin, before);
  munmap(at + bytes, kHuge - before);
  if (mmap(at, bytes, protection, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(offset)) ==
      MAP_FAILED) {
    munmap(at, bytes);
    return nullptr;
  }
  madvise(at, bytes, MADV_HUGEPAGE);
  return at;
}

}  // namespace

SharedMemory::SharedMemory(const char* what)
    : what_(what), fd_(memfd_create(what, MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  if (fd_ < 0)
    fail(ErrorKind::kOutOfResources, "cannot create shared memory for {}: {}", what,
         std::strerror(errno));
}

SharedMemory SharedMemory::inherit(int fd, const char* what) {
  struct stat status {};
  if (fstat(fd, &status) != 0)
    fail(ErrorKind::kIo, "descriptor {} is not the shared memory for {}: {}", fd, what,
         std::strerror(errno));
  return {what, fd, static_cast<size_t>(status.st_size)};
}

SharedMemory::~SharedMemory() {
  if (fd_ >= 0) close(fd_);
}

Buffer SharedMemory::append(size_t bytes) {
  const size_t rounded = round_up(bytes), offset = bytes_;
  if (rounded < bytes || ftruncate(fd_, static_cast<off_t>(offset + rounded)) != 0)
    fail(ErrorKind::kOutOfResources, "cannot allocate {:.1f} MiB of shared memory for {}",
         static_cast<double>(bytes) / (1 << 20), what_);
  bytes_ = offset + rounded;
  return map(offset, rounded, Access::kReadWrite);
}

Buffer SharedMemory::map(size_t offset, size_t bytes, Access access) const {
  const size_t rounded = round_up(bytes);
  if (offset > bytes_ || rounded > bytes_ - offset)
    fail(ErrorKind::kIo, "the shared memory for {} has {} bytes, but {} at {} were expected", what_,
         bytes_, rounded, offset);
  uint8_t* const at = map_aligned(fd_, offset, rounded,
                                  access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE);
  if (at == nullptr)
    fail(ErrorKind::kOutOfResources, "cannot map {:.1f} MiB of shared memory for {}: {}",
         static_cast<double>(rounded) / (1 << 20), what_, std::strerror(errno));
  return {at, rounded};
}

void SharedMemory::seal() {
  const int seals = F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (fcntl(fd_, F_ADD_SEALS, seals) != 0)
    fail(ErrorKind::kIo, "cannot seal the shared memory for {}: {}", what_, std::strerror(errno));
}

bool SharedMemory::is_sealed() const {
  const int seals = fcntl(fd_, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_FUTURE_WRITE) != 0;
}

}  // namespace weft
