#include "base/buffer.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/error.h"
#include "base/huge_pages.h"
#include "base/shared_memory.h"

namespace weft {

namespace {

constexpr size_t kHuge = size_t{2} << 20;

void* map(size_t bytes) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// `bytes` whole huge pages at a multiple of their size, or MAP_FAILED.
void* map_huge(size_t bytes) {
  void* p = map(bytes + kHuge);
  if (p == MAP_FAILED) return p;
  auto* const begin = static_cast<uint8_t*>(p);
  const size_t before = (kHuge - reinterpret_cast<uintptr_t>(begin) % kHuge) % kHuge;
  if (before != 0) munmap(begin, before);
  munmap(begin + before + bytes, kHuge - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

Buffer::Buffer(size_t bytes, const char* what) {
  if (bytes == 0) return;
  const bool huge = bytes >= kHuge;
  // Whole huge pages for big buffers, so that the tail can be one too.
  const size_t rounded = huge ? (bytes + kHuge - 1) / kHuge * kHuge : bytes;
  void* p = rounded < bytes || rounded > SIZE_MAX - kHuge ? MAP_FAILED
            : huge                                        ? map_huge(rounded)
                                                          : map(rounded);
  if (p == MAP_FAILED) {
    fail(ErrorKind::kOutOfResources, "cannot allocate {:.1f} MiB for {}",
         static_cast<double>(bytes) / (1 << 20), what);
  }
  data_ = static_cast<uint8_t*>(p);
  bytes_ = rounded;
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void Buffer::protect() {
  if (data_ != nullptr) WEFT_ASSERT(mprotect(data_, bytes_, PROT_READ) == 0);
}

Arena::Arena(const char* what, SharedMemory& memory, size_t chunk_bytes)
    : what_(what), chunk_bytes_(chunk_bytes), memory_(&memory), filled_(memory.is_sealed()) {}

Buffer Arena::next_chunk(size_t bytes) {
  if (memory_ == nullptr) return Buffer(bytes, what_);
  Buffer chunk =
      filled_ ? memory_->map(offset_, bytes, SharedMemory::Access::kRead) : memory_->append(bytes);
  offset_ += chunk.bytes();
  return chunk;
}

std::shared_ptr<uint8_t> Arena::take(size_t bytes) {
  const size_t rounded = (bytes + 63) / 64 * 64;
  if (chunk_ == nullptr || rounded > chunk_->bytes() - used_) {
    chunk_ = std::make_shared<Buffer>(next_chunk(std::max(rounded, chunk_bytes_)));
    used_ = 0;
    if (memory_ != nullptr) chunks_.push_back(chunk_);
  }
  uint8_t* const block = chunk_->data() + used_;
  used_ += rounded;
  return {chunk_, block};
}

void Arena::seal() {
  WEFT_ASSERT(memory_ != nullptr && !filled_);
  for (const auto& chunk : chunks_) {
    const auto mapped = chunk.lock();
    if (mapped == nullptr) continue;
    use_huge_pages(mapped->data(), mapped->bytes());  // for all who map it
    mapped->protect();
  }
  memory_->seal();
}

}  // namespace weft
