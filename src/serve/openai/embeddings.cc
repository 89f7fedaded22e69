#include "serve/openai/embeddings.h"

#include <openssl/evp.h>

#include "serve/openai/requests.h"

namespace weft::serve::openai {
namespace {

constexpr size_t kMaxInputs = 2048;  // OpenAI's limit

std::string base64(const std::vector<float>& values) {
  const size_t bytes = values.size() * sizeof(float);
  std::string out(4 * ((bytes + 2) / 3) + 1, '\0');  // EVP_EncodeBlock ends it with a zero
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                     reinterpret_cast<const unsigned char*>(values.data()),
                                     static_cast<int>(bytes));
  out.resize(static_cast<size_t>(length));
  return out;
}

}  // namespace

Json answer_embeddings(const Json& body, ServedModel& model) {
  const Fields fields(body);
  const std::string format = fields.string("encoding_format").value_or("float");
  if (format != "float" && format != "base64")
    bad_field("encoding_format", "is '{}'; known are float and base64", format);
  const size_t size = model.model().model().config().hidden_size;
  if (const auto wanted = fields.integer("dimensions", 1, 1 << 20);
      wanted && static_cast<size_t>(*wanted) != size)
    bad_field("dimensions", "is {}, but this model's embeddings have {}", *wanted, size);

  const PromptList inputs = parse_prompts(fields, "input", model.model(), kMaxInputs);
  Json data = Json::array();
  size_t num_tokens = 0;
  for (size_t i = 0; i < inputs.tokens.size(); ++i) {
    const std::vector<text::Token>& tokens = inputs.tokens[i];
    if (tokens.size() > model.model().context_length())
      throw ApiError(400,
                     fmt::format("input {} has {} tokens, but the context holds {}", i,
                                 tokens.size(), model.model().context_length()),
                     "input", "context_length_exceeded");
    const std::vector<float> values = model.embed(tokens);
    num_tokens += tokens.size();
    data.push_back({{"object", "embedding"}, {"index", i}});
    data.back()["embedding"] = format == "base64" ? Json(base64(values)) : Json(values);
  }
  return {{"object", "list"},
          {"data", std::move(data)},
          {"model", model.name()},
          {"usage", {{"prompt_tokens", num_tokens}, {"total_tokens", num_tokens}}}};
}

}  // namespace weft::serve::openai
