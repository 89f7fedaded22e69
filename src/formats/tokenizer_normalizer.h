// Rewrites text before it is cut: the steps of a tokenizer file's normalizer, in order.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/regex.h"

namespace weft::formats {

class Normalizer {
 public:
  using Step = std::function<void(std::string& text)>;
  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;

 private:
  std::vector<Step> steps_;
};

// The steps. None is applied to an empty text.
Normalizer::Step prepend_text(std::string prefix);
Normalizer::Step replace_text(std::string from, std::string to);
Normalizer::Step replace_matches(Regex regex, std::string to);
Normalizer::Step normalize_nfc();
Normalizer::Step strip_space(bool left, bool right);
// Runs of spaces become one, those at both ends go away (SentencePiece's remove_extra_whitespaces).
Normalizer::Step merge_spaces();

// Every `from` in `text` replaced.
std::string replaced(std::string_view text, std::string_view from, std::string_view to);

}  // namespace weft::formats
