#include "base/huge_pages.h"

#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace weft {

void use_huge_pages(void* data, size_t bytes) {
  if (bytes != 0) madvise(data, bytes, MADV_COLLAPSE);
}

}  // namespace weft
