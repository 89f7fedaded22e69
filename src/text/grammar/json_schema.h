// A JSON schema as a grammar of the documents that it describes (docs/serving.md lists what of JSON
// Schema is known). Every document of the grammar is valid; where several spellings say the same,
// or a schema leaves things open that nobody asks for, the grammar may take fewer:
//   - members come in the order in which the schema lists them; those not required may be left out;
//   - an object whose schema lists properties has no others, unless additionalProperties says so;
//   - white space is bounded, and so are the digits of numbers.
// What is not known is refused, and never ignored.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "text/grammar/grammar.h"

namespace weft::text::grammar {

// kInvalidInput names the keyword and where it is ("#/properties/a"); or a schema that nothing can
// match, or that is too large.
Grammar json_schema_grammar(const nlohmann::ordered_json& schema);
Grammar json_object_grammar();  // any object

// As part of a larger grammar.
Symbol add_json_schema(GrammarBuilder& builder, const nlohmann::ordered_json& schema);

}  // namespace weft::text::grammar
