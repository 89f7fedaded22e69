// Any JSON as a schema; an answer that comes to an end must be JSON.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "formats/bounded_json.h"
#include "text/grammar/fuzz_answers.h"
#include "text/grammar/json_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft::text::grammar;
  try {
    const nlohmann::ordered_json schema = weft::formats::parse_bounded_ordered_json(
        {reinterpret_cast<const char*>(data), size}, "fuzz", 64);
    for (const std::string& answer : make_fuzz_answers(json_schema_grammar(schema), data, size))
      if (!nlohmann::ordered_json::accept(answer)) std::abort();
  } catch (const weft::Error&) {
  }
  return 0;
}
