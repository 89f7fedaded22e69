// Cuts normalized text into the pieces that a token model works on: a row of stages, each of which
// cuts every piece of the one before. Immutable once built; thread-safe.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/pre_tokenizer_words.h"
#include "formats/regex.h"

namespace weft::formats {

// What becomes of a match. The names are those of the `tokenizers` library.
enum class SplitBehavior {
  kIsolated,  // a piece of its own
  kRemoved,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,  // neighbouring matches are one piece
};

enum class PrependScheme { kNever, kFirst, kAlways };

// Storage for the pieces that a stage rewrites, and whether the text is the start of the input.
struct PieceBuffers {
  std::deque<std::string> texts;
  bool at_start = true;
};

class PreTokenizer {
 public:
  class Stage {
   public:
    virtual ~Stage() = default;
    virtual void split(std::string_view piece, PieceBuffers& buffers,
                       std::vector<std::string_view>& out) const = 0;
  };

  void add(std::unique_ptr<Stage> stage) { stages_.push_back(std::move(stage)); }
  bool empty() const { return stages_.empty(); }

  // The pieces of `text`, in order, none empty; they look into `text` or `buffers`.
  std::vector<std::string_view> split(std::string_view text, PieceBuffers& buffers) const;

 private:
  std::vector<std::unique_ptr<Stage>> stages_;
};

std::unique_ptr<PreTokenizer::Stage> split_words(WordPattern pattern);
// `invert`: what lies between the matches is the match.
std::unique_ptr<PreTokenizer::Stage> split_by_regex(Regex regex, SplitBehavior behavior,
                                                    bool invert = false);
std::unique_ptr<PreTokenizer::Stage> split_by_text(std::string text, SplitBehavior behavior,
                                                   bool invert = false);
// \p{N}, one by one or in runs
std::unique_ptr<PreTokenizer::Stage> split_digits(SplitBehavior behavior);
std::unique_ptr<PreTokenizer::Stage> split_punctuation(SplitBehavior behavior);
std::unique_ptr<PreTokenizer::Stage> split_at_whitespace();  // which is removed
// A space in front of a piece that has none.
std::unique_ptr<PreTokenizer::Stage> add_prefix_space();
// Spaces become `replacement`, one is put in front, and `split` cuts before each.
std::unique_ptr<PreTokenizer::Stage> metaspace(std::string replacement, PrependScheme prepend,
                                               bool split);
// Cuts before each run of `mark`: exact where no token has `mark` behind another character.
std::unique_ptr<PreTokenizer::Stage> cut_before_runs(std::string mark);

}  // namespace weft::formats
