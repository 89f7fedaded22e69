#include "cli/answer_form_options.h"

#include "base/error.h"
#include "base/file.h"
#include "formats/bounded_json.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"

namespace weft::cli {
namespace {

constexpr size_t kLargestFile = size_t{4} << 20;  // bytes
constexpr int kDeepestSchema = 64;

}  // namespace

void add_answer_form_options(CLI::App& command, AnswerFormOptions& options) {
  const std::string group = "Form of the answer";
  CLI::Option* const grammar =
      command.add_option("--grammar", options.grammar, "Only what this grammar allows (GBNF)")
          ->type_name("FILE")
          ->group(group);
  command.add_option("--json-schema", options.json_schema, "Only JSON that matches this schema")
      ->type_name("FILE")
      ->group(group)
      ->excludes(grammar);
}

std::shared_ptr<const text::TokenFilter> load_filter(const AnswerFormOptions& options,
                                                     const text::TextModel& model,
                                                     formats::LeadingSpace leading) {
  const bool is_grammar = !options.grammar.empty();
  if (!is_grammar && options.json_schema.empty()) return nullptr;
  const std::filesystem::path& path = is_grammar ? options.grammar : options.json_schema;
  const std::string text = read_file(path, kLargestFile);
  try {
    return model.filters().get((is_grammar ? "gbnf " : "schema ") + text, leading, [&] {
      if (is_grammar) return text::grammar::parse_gbnf(text);
      return text::grammar::json_schema_grammar(
          formats::parse_bounded_ordered_json(text, "the schema", kDeepestSchema));
    });
  } catch (const Error& error) {
    throw error.in(path.string());
  }
}

}  // namespace weft::cli
