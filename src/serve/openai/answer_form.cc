#include "serve/openai/answer_form.h"

#include <functional>

#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"

namespace weft::serve::openai {
namespace {

using text::grammar::Grammar;

FilterPtr compile(const text::TextModel& model, formats::LeadingSpace leading,
                  const std::string& field, const std::string& name,
                  const std::function<Grammar()>& make) {
  try {
    return model.filters().get(name, leading, make);
  } catch (const Error& error) {
    bad_field(field, "cannot be used: {}", error.what());
  }
}

std::string as_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The schema that response_format asks for; true: any object; null: any text.
Json parse_response_format(const Fields& fields) {
  const Json* const format = fields.object("response_format");
  if (format == nullptr) return nullptr;
  const Fields in(*format, "response_format.");
  const std::string type = in.need_string("type");
  if (type == "text") return nullptr;
  if (type == "json_object") {  // llama.cpp: a schema may stand here as well
    const Json* const schema = in.find("schema");
    return schema != nullptr ? *schema : Json(true);
  }
  if (type != "json_schema")
    bad_field("response_format.type", "is '{}'; known are text, json_object and json_schema", type);
  const Json* const named = in.object("json_schema");
  if (named == nullptr) bad_field("response_format.json_schema", "is missing");
  const Fields inside(*named, "response_format.json_schema.");
  inside.string("name");
  inside.boolean("strict");  // always so
  const Json* const schema = inside.object("schema");
  if (schema == nullptr) bad_field("response_format.json_schema.schema", "is missing");
  return *schema;
}

}  // namespace

FilterPtr parse_answer_form(const Fields& fields, const text::TextModel& model,
                            formats::LeadingSpace leading) {
  const std::optional<std::string> gbnf = fields.string("grammar");
  const Json* const top_schema = fields.find("json_schema");
  const Json format = parse_response_format(fields);
  if (gbnf && top_schema != nullptr)
    bad_field("json_schema", "excludes 'grammar': give one of them");
  if (!format.is_null() && (gbnf || top_schema != nullptr))
    bad_field("response_format", "excludes '{}': give one of them",
              gbnf ? "grammar" : "json_schema");
  if (gbnf)
    return compile(model, leading, "grammar", "gbnf " + *gbnf,
                   [&] { return text::grammar::parse_gbnf(*gbnf); });
  if (format == true)
    return compile(model, leading, "response_format", "object",
                   [] { return text::grammar::json_object_grammar(); });
  if (format.is_null() && top_schema == nullptr) return nullptr;
  const Json& schema = top_schema != nullptr ? *top_schema : format;
  return compile(model, leading, top_schema != nullptr ? "json_schema" : "response_format",
                 "schema " + as_text(schema),
                 [&] { return text::grammar::json_schema_grammar(schema); });
}

FilterPtr tool_call_filter(const Json& tools, const ToolCallRules& rules,
                           const text::TextModel& model) {
  const std::string name =
      fmt::format("tools {} {} {} {} {}", static_cast<int>(rules.format),
                  static_cast<int>(rules.wanted), rules.parallel, rules.function, as_text(tools));
  return compile(model, formats::LeadingSpace::kAsDecoded, "tools", name,
                 [&] { return tool_call_grammar(tools, rules); });
}

}  // namespace weft::serve::openai
