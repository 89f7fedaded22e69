// POST /v1/embeddings.
#pragma once

#include "serve/openai/fields.h"
#include "serve/served_model.h"

namespace weft::serve::openai {

// `input`: a text, tokens, or a list of either. `encoding_format`: float, or base64 of little-endian
// floats, which is what OpenAI's Python client asks for. ApiError as parse_prompts.
Json answer_embeddings(const Json& body, ServedModel& model);

}  // namespace weft::serve::openai
