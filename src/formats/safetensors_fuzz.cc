// Any bytes either parse as safetensors (a file, or the index of a sharded one) or throw
// weft::Error; whatever parses can be looked at.
#include <cstddef>
#include <cstdint>

#include "formats/parser_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  weft::formats::try_safetensors({data, size});
  return 0;
}
