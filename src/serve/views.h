// What the server says about itself and its models, as JSON and as Prometheus' text.
#pragma once

#include <string>

#include "serve/openai/requests.h"
#include "serve/served_model.h"

namespace weft::serve::views {

using openai::Json;

Json health(const ModelSet& models);   // /health; "status" is "ok", "loading" or "failed"
Json model(const ServedModel& model);  // an entry of /v1/models
Json models(const ModelSet& models);   // /v1/models
Json props(const ModelSet& models, const openai::RequestDefaults& defaults);  // /props
Json state(const ModelSet& models);     // /weft/state: the machine room, of the first model
std::string metrics(const ModelSet& models);  // /metrics

// {"content": text, "add_special"?, "with_pieces"?} to {"tokens": [...]}, and back.
Json tokenize(const Json& body, const text::TextModel& model);
Json detokenize(const Json& body, const text::TextModel& model);

}  // namespace weft::serve::views
