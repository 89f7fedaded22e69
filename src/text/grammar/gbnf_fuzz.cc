// Any text as a grammar. What parses then makes answers of a few random tokens: each that a mask
// allows must be taken.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/grammar/fuzz_answers.h"
#include "text/grammar/gbnf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft::text::grammar;
  constexpr GbnfLimits kSmall = {.max_bytes = 4096,
                                 .grammar = {.max_elements = 1 << 14, .max_rules = 1 << 14}};
  try {
    make_fuzz_answers(parse_gbnf({reinterpret_cast<const char*>(data), size}, kSmall), data, size);
  } catch (const weft::Error&) {
  }
  return 0;
}
