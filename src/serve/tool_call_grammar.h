// Calls of functions as a grammar: what a model must write to call one of the request's tools, in
// its own form, with arguments of the function's schema.
#pragma once

#include <string>

#include "serve/tool_calls.h"
#include "text/grammar/grammar.h"

namespace weft::serve {

enum class CallsWanted : uint8_t {
  kRequired,  // the answer is a call, or several
  kAllowed,   // or text, in which each call is as it should be
};

struct ToolCallRules {
  ToolCallFormat format = ToolCallFormat::kHermes;
  CallsWanted wanted = CallsWanted::kRequired;
  bool parallel = true;  // several calls in one answer
  std::string function = {};  // only this one; empty: any
};

// Whether a tool of the list asks for arguments that keep to its schema ("strict": true).
bool any_strict(const openai::Json& tools);

// Arguments of strict functions keep to their schema; those of others too, unless it says something
// that grammars do not know: then any object will do. ApiError: a strict function's schema that
// cannot be kept to.
text::grammar::Grammar tool_call_grammar(const openai::Json& tools, const ToolCallRules& rules);

}  // namespace weft::serve
