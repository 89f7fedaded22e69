#include "serve/tool_call_grammar.h"

#include <string_view>
#include <vector>

#include "text/grammar/json_schema.h"
#include "text/grammar/json_text.h"

namespace weft::serve {
namespace {

using openai::Json;
using text::grammar::CharSet;
using text::grammar::Grammar;
using text::grammar::GrammarBuilder;
using text::grammar::JsonText;
using text::grammar::Symbol;

bool is_strict(const Json& tool) {
  const auto strict = tool["function"].find("strict");
  return strict != tool["function"].end() && *strict == true;
}

class CallRules {
 public:
  CallRules(const Json& tools, const ToolCallRules& rules)
      : tools_(tools), rules_(rules), json_(builder_) {}

  Grammar build() {
    const bool required = rules_.wanted == CallsWanted::kRequired;
    return builder_.build(required ? calls() : text_or_calls());
  }

 private:
  Symbol literal(std::string_view text) { return builder_.literal(text); }

  Symbol any_call() {
    std::vector<Symbol> choices;
    for (size_t i = 0; i < tools_.size(); ++i)
      if (rules_.function.empty() || tools_[i]["function"]["name"] == rules_.function)
        choices.push_back(call(tools_[i], i));
    return builder_.one_of(choices);
  }

  Symbol call(const Json& tool, size_t index) {
    const Json& function = tool["function"];
    const char* const arguments =
        rules_.format == ToolCallFormat::kLlama3 ? "\"parameters\"" : "\"arguments\"";
    const std::string name = function["name"].dump(-1, ' ', false, Json::error_handler_t::replace);
    return json_.object_of({{literal("\"name\""), literal(name), true},
                            {literal(arguments), arguments_of(tool, index), true}},
                           std::nullopt);
  }

  Symbol arguments_of(const Json& tool, size_t index) {
    static const Json kNone = {{"type", "object"}, {"additionalProperties", false}};
    const auto found = tool["function"].find("parameters");
    const bool given = found != tool["function"].end() && !found->is_null();
    const Json& schema = given ? *found : kNone;
    try {
      // Tried apart first, so that a schema that cannot be kept to leaves nothing behind.
      GrammarBuilder trial;
      trial.build(text::grammar::add_json_schema(trial, schema));
    } catch (const Error& error) {
      const std::string path = fmt::format("tools[{}].function.parameters", index);
      if (is_strict(tool)) openai::bad_field(path, "cannot be kept to strictly: {}", error.what());
      return json_.object();
    }
    return text::grammar::add_json_schema(builder_, schema);
  }

  // Nothing but calls.
  Symbol calls() {
    const Symbol call = any_call();
    switch (rules_.format) {
      case ToolCallFormat::kHermes: {
        const Symbol one =
            builder_.sequence({literal("<tool_call>\n"), call, literal("\n</tool_call>")});
        if (!rules_.parallel) return one;
        return builder_.sequence(
            {one, builder_.repeat(builder_.sequence({literal("\n"), one}), 0, std::nullopt)});
      }
      case ToolCallFormat::kMistral: {
        const Symbol more = builder_.repeat(builder_.sequence({literal(", "), call}), 0,
                                            rules_.parallel ? std::nullopt : std::optional(0u));
        return builder_.sequence({literal("[TOOL_CALLS]["), call, more, literal("]")});
      }
      case ToolCallFormat::kLlama3:
        return call;
    }
    return call;
  }

  // Text that does not begin a call, or calls after it.
  Symbol text_or_calls() {
    const Symbol calls_only = calls();
    if (rules_.format == ToolCallFormat::kLlama3) {
      // The scanner takes what begins with { for a call.
      const CharSet brace_or_space({{'{', '{'}, {'\t', '\r'}, {' ', ' '}});
      const Symbol anything = builder_.repeat(builder_.chars(CharSet::any()), 0, std::nullopt);
      const Symbol text =
          builder_.sequence({builder_.chars(brace_or_space.complement()), anything});
      return builder_.one_of({calls_only, text, literal("")});
    }
    const std::string_view marker =
        rules_.format == ToolCallFormat::kHermes ? "<tool_call>" : "[TOOL_CALLS]";
    const Symbol before = text_without(marker);
    return builder_.sequence({before, builder_.optional(calls_only)});
  }

  // Text in which the marker is nowhere, as a finite automaton: rule i has just read the marker's
  // first i characters. Both markers' first character is nowhere else in them, so that a mismatch
  // falls back to the beginning.
  Symbol text_without(std::string_view marker) {
    std::vector<Symbol> read;
    for (size_t i = 0; i < marker.size(); ++i) read.push_back(builder_.declare());
    const auto single = [](char c) { return CharSet::single(static_cast<char32_t>(c)); };
    for (size_t i = 0; i < marker.size(); ++i) {
      builder_.add_alternative(read[i], {});
      CharSet others = CharSet::any().minus(single(marker[0]));
      if (i != 0) {
        others = others.minus(single(marker[i]));
        builder_.add_alternative(read[i], {builder_.chars(single(marker[0])), read[1]});
      }
      builder_.add_alternative(read[i], {builder_.chars(others), read[0]});
      if (i + 1 < marker.size())
        builder_.add_alternative(read[i], {builder_.chars(single(marker[i])), read[i + 1]});
    }
    return read[0];
  }

  const Json& tools_;
  const ToolCallRules& rules_;
  GrammarBuilder builder_;
  JsonText json_;
};

}  // namespace

bool any_strict(const Json& tools) {
  for (const Json& tool : tools)
    if (is_strict(tool)) return true;
  return false;
}

Grammar tool_call_grammar(const Json& tools, const ToolCallRules& rules) {
  return CallRules(tools, rules).build();
}

}  // namespace weft::serve
