// Chat templates: the Jinja text that a model carries, rendered as jinja2 (with transformers'
// settings: trim_blocks, lstrip_blocks, loop controls) renders it.
//
// Thread-safety: immutable after parsing; render() may run on many threads at once.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace weft::formats {

class ChatTemplate {
 public:
  // kInvalidInput with line and column for what jinja2 would refuse; kUnsupported for what only we
  // do.
  explicit ChatTemplate(std::string_view source, std::string name = "chat template");
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `context` is a JSON object: messages, add_generation_prompt, bos_token, eos_token, tools, and
  // whatever else the template reads. Object order is kept (ordered_json). kInvalidInput with line
  // and column when the template calls raise_exception or would fail in jinja2, and when it runs for
  // too long, nests too deep or makes too many bytes (jinja/budget.h). strftime_now() tells the
  // local time; with an integer `unix_time_now` in the context, that moment in UTC.
  std::string render(const nlohmann::ordered_json& context) const;

 private:
  struct Program;
  std::unique_ptr<const Program> program_;
};

}  // namespace weft::formats
