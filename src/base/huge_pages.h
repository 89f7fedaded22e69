// Huge pages for memory that has its contents already.
#pragma once

#include <cstddef>

namespace weft {

// Asks the system to put [data, data + bytes), which is aligned to huge pages, into such pages now: a
// walk through a model's weights on small ones costs a tenth of the time more. Shared memory gets none
// by itself where /sys/kernel/mm/transparent_hugepage/shmem_enabled says never, which is the default.
// Best effort (Linux 6.1): what the system refuses stays as it is. Milliseconds for each MiB at most.
void use_huge_pages(void* data, size_t bytes);

}  // namespace weft
