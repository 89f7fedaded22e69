#include "text/vocabtailor/profile_builder.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::text {
namespace {

struct Script {
  std::string_view name;
  std::vector<std::pair<uint32_t, uint32_t>> ranges;  // of code points, both ends included
};

const std::vector<Script>& known_scripts() {
  static const std::vector<Script> scripts = {
      {"latin", {{0xA0, 0x24F}, {0x1E00, 0x1EFF}, {0x2000, 0x206F}, {0x20A0, 0x20CF}}},
      {"greek", {{0x370, 0x3FF}}},
      {"cyrillic", {{0x400, 0x52F}}},
      {"arabic", {{0x600, 0x6FF}}},
      {"devanagari", {{0x900, 0x97F}}},
      {"thai", {{0xE00, 0xE7F}}},
      {"hangul", {{0x1100, 0x11FF}, {0xAC00, 0xD7AF}}},
      {"cjk", {{0x3000, 0x30FF}, {0x3400, 0x4DBF}, {0x4E00, 0x9FFF}, {0xFF00, 0xFFEF}}},
  };
  return scripts;
}

std::vector<const Script*> find_scripts(std::span<const std::string> names) {
  std::vector<const Script*> out;
  std::string known;
  for (const Script& script : known_scripts()) known += (known.empty() ? "" : ", ") + std::string(script.name);
  for (const std::string& name : names) {
    const auto it = std::find_if(known_scripts().begin(), known_scripts().end(),
                                 [&](const Script& script) { return script.name == name; });
    if (it == known_scripts().end())
      fail(ErrorKind::kInvalidInput, "'{}' is no known script. Known are {}.", name, known);
    out.push_back(&*it);
  }
  return out;
}

bool is_written_in(std::string_view text, std::span<const Script* const> scripts) {
  for (size_t at = 0; at < text.size();) {
    const formats::Utf8Unit unit = formats::read_utf8(text, at);
    if (!unit.valid) return false;
    const auto covers = [&](const Script* script) {
      return std::any_of(script->ranges.begin(), script->ranges.end(), [&](const auto& range) {
        return unit.code >= range.first && unit.code <= range.second;
      });
    };
    if (unit.code >= 0x80 && std::none_of(scripts.begin(), scripts.end(), covers))
      return false;
    at += unit.length;
  }
  return true;
}

// Rarest last; of equal df, the higher id.
bool likelier(const TokenCount& a, const TokenCount& b) {
  return a.df > b.df || (a.df == b.df && a.id < b.id);
}

}  // namespace

std::vector<TokenCount> count_needed_tokens(std::span<const TaskDocument> documents,
                                            const formats::Tokenizer& tokenizer) {
  std::map<Token, uint32_t> df;
  for (const TaskDocument& document : documents) {
    const std::unordered_set<Token> given(document.prompt.begin(), document.prompt.end());
    const std::unordered_set<Token> needed(document.answer.begin(), document.answer.end());
    for (const Token token : needed)
      if (!given.contains(token) && tokenizer.kind(token) != formats::TokenKind::kControl)
        ++df[token];
  }
  std::vector<TokenCount> counts;
  for (const auto& [token, count] : df) counts.push_back({static_cast<uint32_t>(token), count});
  std::sort(counts.begin(), counts.end(), likelier);
  return counts;
}

double overlap_with_prompts(std::span<const TaskDocument> documents) {
  size_t in_both = 0, needed_in_all = 0;
  for (const TaskDocument& document : documents) {
    const std::unordered_set<Token> given(document.prompt.begin(), document.prompt.end());
    const std::unordered_set<Token> needed(document.answer.begin(), document.answer.end());
    needed_in_all += needed.size();
    for (const Token token : needed) in_both += given.contains(token) ? 1 : 0;
  }
  return needed_in_all == 0 ? 0
                            : static_cast<double>(in_both) / static_cast<double>(needed_in_all);
}

std::vector<TokenCount> keep_scripts(std::vector<TokenCount> counts,
                                     std::span<const std::string> scripts,
                                     const formats::Tokenizer& tokenizer) {
  const std::vector<const Script*> wanted = find_scripts(scripts);
  std::erase_if(counts, [&](const TokenCount& count) {
    return !is_written_in(tokenizer.piece(static_cast<Token>(count.id)), wanted);
  });
  return counts;
}

std::vector<TokenCount> drop_rarest(std::vector<TokenCount> counts, double tolerance,
                                    size_t num_documents) {
  std::sort(counts.begin(), counts.end(), likelier);
  const double most = tolerance * static_cast<double>(num_documents);
  double dropped = 0;
  while (!counts.empty() && dropped + counts.back().df <= most) {
    dropped += counts.back().df;
    counts.pop_back();
  }
  return counts;
}

}  // namespace weft::text
