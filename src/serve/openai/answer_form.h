// What a request says about the form of its answer: response_format, grammar and json_schema, and
// the calls that tool_choice or strict tools ask for.
#pragma once

#include <memory>

#include "serve/openai/fields.h"
#include "serve/tool_call_grammar.h"
#include "text/text_model.h"

namespace weft::serve::openai {

using FilterPtr = std::shared_ptr<const text::TokenFilter>;

// Null: any answer will do. ApiError names the field: one that is wrong, or the second of two.
FilterPtr parse_answer_form(const Fields& fields, const text::TextModel& model,
                            formats::LeadingSpace leading);

// ApiError as tool_call_grammar; or 400 for what is too large.
FilterPtr tool_call_filter(const Json& tools, const ToolCallRules& rules,
                           const text::TextModel& model);

}  // namespace weft::serve::openai
