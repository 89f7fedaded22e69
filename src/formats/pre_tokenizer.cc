#include "formats/pre_tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

using Pieces = std::vector<std::string_view>;

struct Segment {
  size_t begin, end;
  bool match;
};

void join_with_previous(std::vector<Segment>& segments) {
  std::vector<Segment> joined;
  bool after_match = false;
  for (const Segment& segment : segments) {
    if (segment.match && !after_match && !joined.empty()) {
      joined.back().end = segment.end;
    } else {
      joined.push_back(segment);
    }
    after_match = segment.match;
  }
  segments = std::move(joined);
}

void join_with_next(std::vector<Segment>& segments) {
  std::vector<Segment> joined;  // from the back
  bool before_match = false;
  for (size_t i = segments.size(); i-- > 0;) {
    if (segments[i].match && !before_match && !joined.empty()) {
      joined.back().begin = segments[i].begin;
    } else {
      joined.push_back(segments[i]);
    }
    before_match = segments[i].match;
  }
  std::reverse(joined.begin(), joined.end());
  segments = std::move(joined);
}

void join_equals(std::vector<Segment>& segments) {
  std::vector<Segment> joined;
  for (const Segment& segment : segments) {
    if (!joined.empty() && joined.back().match == segment.match) {
      joined.back().end = segment.end;
    } else {
      joined.push_back(segment);
    }
  }
  segments = std::move(joined);
}

// A stage that looks for something and treats what it finds in one of five ways.
class MatchStage : public PreTokenizer::Stage {
 public:
  MatchStage(SplitBehavior behavior, bool invert) : behavior_(behavior), invert_(invert) {}

  void split(std::string_view piece, PieceBuffers&, Pieces& out) const override {
    std::vector<Segment> segments;
    find_segments(piece, segments);
    if (invert_) {
      for (Segment& segment : segments) segment.match = !segment.match;
    }
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kRemoved:
        std::erase_if(segments, [](const Segment& s) { return s.match; });
        break;
      case SplitBehavior::kMergedWithPrevious:
        join_with_previous(segments);
        break;
      case SplitBehavior::kMergedWithNext:
        join_with_next(segments);
        break;
      case SplitBehavior::kContiguous:
        join_equals(segments);
        break;
    }
    for (const Segment& s : segments) out.push_back(piece.substr(s.begin, s.end - s.begin));
  }

 protected:
  // Matches and what lies between them, covering the piece, none empty.
  virtual void find_segments(std::string_view piece, std::vector<Segment>& out) const = 0;

  // Adds a match at [begin, end) and the gap before it.
  static void add_match(std::vector<Segment>& out, size_t begin, size_t end) {
    add_gap(out, begin);
    out.push_back({begin, end, true});
  }
  static void add_gap(std::vector<Segment>& out, size_t until) {
    const size_t from = out.empty() ? 0 : out.back().end;
    if (from < until) out.push_back({from, until, false});
  }

 private:
  SplitBehavior behavior_;
  bool invert_;
};

class RegexStage final : public MatchStage {
 public:
  RegexStage(Regex regex, SplitBehavior behavior, bool invert)
      : MatchStage(behavior, invert), regex_(std::move(regex)) {}

 protected:
  void find_segments(std::string_view piece, std::vector<Segment>& out) const override {
    std::string valid;
    std::string_view subject = piece;
    if (!is_valid_utf8(piece)) subject = valid = with_controls_for_broken_bytes(piece);
    Regex::Matches matches(regex_, subject);
    size_t begin, end;
    while (matches.next(begin, end)) add_match(out, begin, end);
    add_gap(out, piece.size());
  }

 private:
  Regex regex_;
};

class TextStage final : public MatchStage {
 public:
  TextStage(std::string text, SplitBehavior behavior, bool invert)
      : MatchStage(behavior, invert), text_(std::move(text)) {
    WEFT_ASSERT(!text_.empty());
  }

 protected:
  void find_segments(std::string_view piece, std::vector<Segment>& out) const override {
    for (size_t found = piece.find(text_); found != std::string_view::npos;
         found = piece.find(text_, found + text_.size())) {
      add_match(out, found, found + text_.size());
    }
    add_gap(out, piece.size());
  }

 private:
  std::string text_;
};

// Every character of a kind is a match.
class ClassStage final : public MatchStage {
 public:
  using Predicate = bool (*)(char32_t);
  ClassStage(Predicate matches, SplitBehavior behavior)
      : MatchStage(behavior, /*invert=*/false), matches_(matches) {}

 protected:
  void find_segments(std::string_view piece, std::vector<Segment>& out) const override {
    for (size_t pos = 0; pos < piece.size();) {
      const Utf8Unit unit = read_utf8(piece, pos);
      if (unit.valid && matches_(unit.code)) add_match(out, pos, pos + unit.length);
      pos += unit.length;
    }
    add_gap(out, piece.size());
  }

 private:
  Predicate matches_;
};

bool is_number(char32_t code) { return char_class(code) == CharClass::kNumber; }
bool is_space(char32_t code) { return char_class(code) == CharClass::kSpace; }
bool is_punctuation(char32_t code) {
  const CharClass c = char_class(code);
  return c == CharClass::kPunctuation || (code < 128 && c == CharClass::kSymbol);
}

class WordStage final : public PreTokenizer::Stage {
 public:
  explicit WordStage(WordPattern pattern) : pattern_(pattern) {}
  void split(std::string_view piece, PieceBuffers&, Pieces& out) const override {
    for (size_t pos = 0; pos < piece.size();) {
      const size_t end = end_of_word(pattern_, piece, pos);
      out.push_back(piece.substr(pos, end - pos));
      pos = end;
    }
  }

 private:
  WordPattern pattern_;
};

class PrefixSpaceStage final : public PreTokenizer::Stage {
 public:
  void split(std::string_view piece, PieceBuffers& buffers, Pieces& out) const override {
    if (!piece.starts_with(' ')) {
      piece = buffers.texts.emplace_back(std::string(" ").append(piece));
    }
    out.push_back(piece);
  }
};

class MetaspaceStage final : public PreTokenizer::Stage {
 public:
  MetaspaceStage(std::string replacement, PrependScheme prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  void split(std::string_view piece, PieceBuffers& buffers, Pieces& out) const override {
    std::string& text = buffers.texts.emplace_back();
    for (const char c : piece) {
      if (c == ' ') {
        text += replacement_;
      } else {
        text += c;
      }
    }
    const bool prepends = prepend_ == PrependScheme::kAlways ||
                          (prepend_ == PrependScheme::kFirst && buffers.at_start);
    if (prepends && !text.starts_with(replacement_)) text.insert(0, replacement_);
    if (!split_) {
      out.push_back(text);
      return;
    }
    const std::string_view view = text;
    size_t begin = 0;
    while (begin < view.size()) {
      const size_t end = std::min(view.find(replacement_, begin + 1), view.size());
      out.push_back(view.substr(begin, end - begin));
      begin = end;
    }
  }

 private:
  std::string replacement_;
  PrependScheme prepend_;
  bool split_;
};

class RunStage final : public PreTokenizer::Stage {
 public:
  explicit RunStage(std::string mark) : mark_(std::move(mark)) {}
  void split(std::string_view piece, PieceBuffers&, Pieces& out) const override {
    size_t begin = 0, pos = 0;
    while (true) {
      while (piece.substr(pos).starts_with(mark_)) pos += mark_.size();
      pos = piece.find(mark_, pos);
      if (pos == std::string_view::npos) break;
      out.push_back(piece.substr(begin, pos - begin));
      begin = pos;
    }
    out.push_back(piece.substr(begin));
  }

 private:
  std::string mark_;
};

}  // namespace

std::vector<std::string_view> PreTokenizer::split(std::string_view text,
                                                  PieceBuffers& buffers) const {
  Pieces pieces{text}, next;
  for (const auto& stage : stages_) {
    next.clear();
    const bool at_start = buffers.at_start;
    for (const std::string_view piece : pieces) {
      stage->split(piece, buffers, next);
      buffers.at_start = false;
    }
    buffers.at_start = at_start;
    std::erase_if(next, [](std::string_view piece) { return piece.empty(); });
    std::swap(pieces, next);
  }
  return pieces;
}

std::unique_ptr<PreTokenizer::Stage> split_words(WordPattern pattern) {
  return std::make_unique<WordStage>(pattern);
}

std::unique_ptr<PreTokenizer::Stage> split_by_regex(Regex regex, SplitBehavior behavior,
                                                    bool invert) {
  return std::make_unique<RegexStage>(std::move(regex), behavior, invert);
}

std::unique_ptr<PreTokenizer::Stage> split_by_text(std::string text, SplitBehavior behavior,
                                                   bool invert) {
  return std::make_unique<TextStage>(std::move(text), behavior, invert);
}

std::unique_ptr<PreTokenizer::Stage> split_digits(SplitBehavior behavior) {
  return std::make_unique<ClassStage>(is_number, behavior);
}

std::unique_ptr<PreTokenizer::Stage> split_punctuation(SplitBehavior behavior) {
  return std::make_unique<ClassStage>(is_punctuation, behavior);
}

std::unique_ptr<PreTokenizer::Stage> split_at_whitespace() {
  return std::make_unique<ClassStage>(is_space, SplitBehavior::kRemoved);
}

std::unique_ptr<PreTokenizer::Stage> add_prefix_space() {
  return std::make_unique<PrefixSpaceStage>();
}

std::unique_ptr<PreTokenizer::Stage> metaspace(std::string replacement, PrependScheme prepend,
                                               bool split) {
  return std::make_unique<MetaspaceStage>(std::move(replacement), prepend, split);
}

std::unique_ptr<PreTokenizer::Stage> cut_before_runs(std::string mark) {
  return std::make_unique<RunStage>(std::move(mark));
}

}  // namespace weft::formats
