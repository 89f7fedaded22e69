#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "formats/tokenizer.h"
#include "formats/unicode.h"

namespace weft::cli {
namespace {

using formats::Token;
using formats::Tokenizer;

struct Options {
  std::string text;
  std::filesystem::path model;
  bool from_stdin = false, ids_only = false, as_json = false;
  bool no_bos = false, no_special = false;
};

// The bytes to the last one: no line end is taken off.
std::string read_stdin() {
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

// A piece on one line: \n, \r, \t, \\ and \xNN for other controls and for bytes that are no UTF-8.
std::string escaped(std::string_view piece) {
  std::string out;
  for (size_t pos = 0; pos < piece.size();) {
    const formats::Utf8Unit unit = formats::read_utf8(piece, pos);
    const std::string_view bytes = piece.substr(pos, unit.length);
    pos += unit.length;
    if (unit.code == '\n') {
      out += "\\n";
    } else if (unit.code == '\r') {
      out += "\\r";
    } else if (unit.code == '\t') {
      out += "\\t";
    } else if (unit.code == '\\') {
      out += "\\\\";
    } else if (unit.valid && unit.code >= 0x20 && (unit.code < 0x7F || unit.code > 0x9F)) {
      out += bytes;
    } else {
      for (const char byte : bytes) out += fmt::format("\\x{:02X}", static_cast<uint8_t>(byte));
    }
  }
  return out;
}

void print_ids(const std::vector<Token>& ids) { fmt::print("{}\n", fmt::join(ids, " ")); }

void print_lines(const Tokenizer& tokenizer, const std::vector<Token>& ids) {
  for (const Token id : ids) {
    fmt::print("{}\t{}\n", id, escaped(tokenizer.piece(id, /*show_special=*/true)));
  }
}

void print_json(const Tokenizer& tokenizer, const std::vector<Token>& ids) {
  nlohmann::json pieces = nlohmann::json::array();
  for (const Token id : ids) {
    std::string piece;
    formats::append_valid_utf8(piece, tokenizer.piece(id, /*show_special=*/true));
    pieces.push_back(std::move(piece));
  }
  fmt::print("{}\n", nlohmann::json{{"ids", ids}, {"pieces", std::move(pieces)}}.dump());
}

void run(const Options& options, bool has_text) {
  if (has_text == options.from_stdin) {
    fail(ErrorKind::kInvalidInput, "give either TEXT or --stdin. See 'weft tokenize --help'");
  }
  const auto tokenizer = formats::load_tokenizer(model_path(options.model));
  const std::vector<Token> ids =
      tokenizer->encode(options.from_stdin ? read_stdin() : options.text,
                        {.add_special = !options.no_bos, .parse_special = !options.no_special});
  if (options.as_json) return print_json(*tokenizer, ids);
  if (options.ids_only) return print_ids(ids);
  print_lines(*tokenizer, ids);
}

}  // namespace

void add_tokenize(CLI::App& program, StopToken) {
  CLI::App* command = program.add_subcommand("tokenize", "Show the tokens of a text");
  const auto options = std::make_shared<Options>();
  const CLI::Option* text = command->add_option("text", options->text, "The text");
  command->add_flag("--stdin", options->from_stdin,
                    "Read the text from standard input, every byte");
  add_model_flag(*command, options->model);
  command->add_flag("--ids", options->ids_only, "Only the ids, separated by spaces, on one line");
  command->add_flag("--json", options->as_json, R"(One line {"ids": [...], "pieces": [...]})")
      ->excludes("--ids");
  command->add_flag("--no-bos", options->no_bos, "Without the BOS and EOS that the model asks for");
  command->add_flag("--no-special", options->no_special,
                    "Take \"<|im_end|>\" and the like for plain text");
  command->footer(
      "Prints a line for each token: its id, a tab, its text (\\n, \\t, \\\\, \\xNN escaped).\n"
      "Example: weft tokenize --ids \"Hello there\"");
  command->callback([options, text] { run(*options, text->count() > 0); });
}

}  // namespace weft::cli
