// Loads any bytes as a tokenizer.json, and encodes and decodes a text with what comes out.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "formats/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft::formats;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = load_json_tokenizer(bytes, "", "fuzz");
    // A text with something for every stage, then the input itself.
    for (const std::string_view text :
         {std::string_view("Hello  wörld's 123\r\n\t<s>▁日本語 e\xCC\x81\xFF\xF0\x9F x"),
          bytes.substr(0, 4096)}) {
      const auto ids = tokenizer->encode(text);
      for (const Token id : ids) {
        if (id < 0 || static_cast<size_t>(id) >= tokenizer->vocab_size()) std::abort();
      }
      tokenizer->decode(ids, /*show_special=*/true);
      TokenStream stream(*tokenizer);
      for (const Token id : ids) stream.push(id);
      stream.finish();
    }
  } catch (const weft::Error&) {
  }
  return 0;
}
