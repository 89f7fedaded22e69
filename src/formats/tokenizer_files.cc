#include "base/error.h"
#include "base/file.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"

namespace weft::formats {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return load_gguf_tokenizer(GgufFile::open(path));
  const std::filesystem::path tokenizer = path / "tokenizer.json";
  const std::filesystem::path config = path / "tokenizer_config.json";
  if (!std::filesystem::exists(tokenizer)) {
    fail(ErrorKind::kNotFound,
         "{}: has no tokenizer.json. Give a Hugging Face folder or a GGUF file", path.string());
  }
  return load_json_tokenizer(read_file(tokenizer),
                             std::filesystem::exists(config) ? read_file(config) : std::string(),
                             tokenizer.string());
}

}  // namespace weft::formats
