// Stands in until tokenizers of GGUF files can be loaded.
#include "base/error.h"
#include "formats/tokenizer.h"

namespace weft::formats {
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufFile&) {
  fail(ErrorKind::kUnsupported, "this version cannot load tokenizers yet");
}
}  // namespace weft::formats
