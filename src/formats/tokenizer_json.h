// The parts of a tokenizer.json (the `tokenizers` library's file) around its model: each section
// names a type, and a type that is not known is kUnsupported with the section and the known ones.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "formats/tokenizer_pipeline.h"

namespace weft::formats {

// A member of a JSON object with its type checked; kInvalidInput names `where` and the key.
template <typename T>
T json_field(const nlohmann::json& object, std::string_view key, std::string_view where);
// The same; `otherwise` if the member is absent or null.
template <typename T>
T json_field_or(const nlohmann::json& object, std::string_view key, std::string_view where,
                T otherwise);
// nullptr if the member is absent or null.
const nlohmann::json* json_member(const nlohmann::json& object, std::string_view key);

void fill_normalizer(const nlohmann::json& section, Normalizer& normalizer);
// True if the model gets bytes (ByteLevel), not characters.
bool fill_pre_tokenizer(const nlohmann::json& section, PreTokenizer& pre_tokenizer);
void fill_post_processor(const nlohmann::json& section, TokenizerParts& parts);
void fill_decoder(const nlohmann::json& section, PieceDecoder& decoder);

}  // namespace weft::formats
