#include "base/buffer.h"

#include <sys/mman.h>

#include "base/error.h"

namespace weft {

Buffer::Buffer(size_t bytes, const char* what) {
  if (bytes == 0) return;
  constexpr size_t kHuge = size_t{2} << 20;
  // Whole huge pages for big buffers, so that the tail can be one too.
  const size_t rounded = bytes >= kHuge ? (bytes + kHuge - 1) / kHuge * kHuge : bytes;
  void* p = rounded < bytes ? MAP_FAILED
                            : mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    fail(ErrorKind::kOutOfResources, "cannot allocate {:.1f} MiB for {}",
         static_cast<double>(bytes) / (1 << 20), what);
  }
  if (rounded >= kHuge) madvise(p, rounded, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(p);
  bytes_ = rounded;
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace weft
