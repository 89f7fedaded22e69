#include "formats/chat_template.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/jinja/interpreter.h"
#include "formats/jinja/parser.h"

namespace weft::formats {

struct ChatTemplate::Program {
  std::string name;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string name) {
  constexpr size_t kMaxBytes = size_t{4} << 20;
  if (source.size() > kMaxBytes) {
    fail(ErrorKind::kUnsupported,
         "{}: the template has {} bytes, at most {} are supported. Real ones have a few thousand: "
         "check that the right text was passed.",
         name, source.size(), kMaxBytes);
  }
  auto program = std::make_unique<Program>();
  try {
    program->body = jinja::parse(source);
  } catch (const jinja::SyntaxError& error) {
    if (error.is_unsupported) {
      fail(ErrorKind::kUnsupported,
           "{}: line {}, column {}: {}. This build cannot run the template: pass another one.",
           name, error.at.line, error.at.column, error.message);
    }
    fail(ErrorKind::kInvalidInput,
         "{}: line {}, column {}: {}. The template is not valid Jinja: correct it or pass another.",
         name, error.at.line, error.at.column, error.message);
  }
  program->name = std::move(name);
  program_ = std::move(program);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const nlohmann::ordered_json& context) const {
  if (!context.is_object()) {
    fail(ErrorKind::kInvalidInput, "{}: the context must be a JSON object, not {}", program_->name,
         context.type_name());
  }
  jinja::Budget budget;
  jinja::Interpreter interpreter(budget);
  try {
    return interpreter.render(program_->body, jinja::Value::from_json(context, budget).dict());
  } catch (const jinja::Failure& failure) {
    const jinja::Position at = interpreter.position();
    fail(failure.kind, "{}: line {}, column {}: {}", program_->name, at.line, at.column,
         failure.message);
  }
}

}  // namespace weft::formats
