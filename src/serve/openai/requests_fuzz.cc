// Any bytes as the body of a request to a tiny random model.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "formats/random_model.h"
#include "serve/openai/requests.h"

namespace {

const weft::text::TextModel& model() {
  static const weft::text::TextModel loaded = [] {
    const auto path = std::filesystem::temp_directory_path() /
                      ("weft_requests_fuzz_" + std::to_string(getpid()) + ".gguf");
    weft::formats::write_random_model(
        path, "tiny", weft::formats::quant_mix("q8_0"), 1, weft::CoreSet(), {}, {},
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: "
        "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}");
    auto out = weft::text::TextModel::load(path, {.context = 256}, weft::CoreSet());
    std::filesystem::remove(path);  // it stays mapped
    return out;
  }();
  return loaded;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft::serve::openai;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const Json body = parse_body(bytes);
    try {
      parse_chat_request(body, model(), {});
    } catch (const ApiError&) {
    }
    parse_completion_request(body, model(), {});
  } catch (const ApiError&) {
  }
  return 0;
}
