// --grammar and --json-schema of generate and chat.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "text/text_model.h"

namespace weft::cli {

struct AnswerFormOptions {
  std::filesystem::path grammar, json_schema;
};

// `options` must live until the command has run.
void add_answer_form_options(CLI::App& command, AnswerFormOptions& options);

// Null: any answer. kInvalidInput names the file and what is wrong with it.
std::shared_ptr<const text::TokenFilter> load_filter(const AnswerFormOptions& options,
                                                     const text::TextModel& model,
                                                     formats::LeadingSpace leading);

}  // namespace weft::cli
