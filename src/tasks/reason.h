// The reasoners' task: a chain of named values, each made from the one before by one operation on
// residues, worked out in writing, one line for each. Generated, so there is as much of it as one
// wants and every answer can be checked; never the same problem in training and test.
//
//   Let g = 47, h = g + 12, i = h * 03, j = i - h. Find j mod 100.
//
//   So h = 47 + 12 gives 59.
//   Next i = 59 * 03 is 77.
//   Now j = 77 - 59 makes 18.
//   Answer 18.
//
// What is added or subtracted is a number or, a `link`, an earlier value; factors are small
// numbers. Names go on like a spreadsheet's columns (z, aa, ab), numbers have as many digits as
// residues can have. A line's first word and its verb are drawn from five synonyms each, and mean
// nothing: two models that differ there do not differ (R2R's neutral tokens); where they differ in
// a digit or a name, they do.
//
// All of it depends on its arguments alone, on any machine. Thread-safe: no state.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::tasks {

inline constexpr size_t kMaxReasonSteps = 103;  // names from a to cz

// Linked and mixed alone have links.
enum class ReasonLevel : uint8_t { kEasy, kMedium, kHard, kExtreme, kLinked, kMixed };
inline constexpr std::array kReasonLevels = {ReasonLevel::kEasy,   ReasonLevel::kMedium,
                                             ReasonLevel::kHard,   ReasonLevel::kExtreme,
                                             ReasonLevel::kLinked, ReasonLevel::kMixed};
const char* name(ReasonLevel level);  // "easy", "medium", "hard", "extreme", "linked", "mixed"
ReasonLevel reason_level(std::string_view name);  // kInvalidInput lists them

struct ReasonOptions {
  unsigned modulus = 100;         // 100 or 1000
  std::string operators = "+-*";  // drawn from; each at most once
  size_t min_steps = 8, max_steps = 12;
  bool many_short = false;  // as many problems of 5 to 10 steps as of 50 to 100
  double link_share = 0;    // of what is added or subtracted, from the second step on
  unsigned max_factor = 9;  // multiplied by 2 to this
};
ReasonOptions options_of(ReasonLevel level);
// A level, or one with other settings behind it: "easy:steps=1-2:operators=+-". Settings: steps
// (one number, or from-to), operators, modulus, links (the share), factor (the largest).
// kInvalidInput names what is wrong, and what there is.
ReasonOptions reason_options(std::string_view level);

struct ReasonStep {
  char op = '+';                 // + - *
  unsigned operand = 0;          // the number, or the value that `link` has
  std::optional<size_t> link{};  // 0: the first value; at most the one before the last known
};
struct ReasonProblem {
  unsigned modulus = 100;
  size_t first_name = 0;  // 0: a
  unsigned start = 0;     // the first value
  std::vector<ReasonStep> steps;

  std::vector<unsigned> values() const;  // the first, then one for each step
  unsigned answer() const { return values().back(); }
};

// Test problems are one in ten of all there are, by their numbers and operations: neither names nor
// synonyms, neither seed nor level make a test problem a training problem.
enum class ReasonSplit : uint8_t { kTrain, kTest };
const char* name(ReasonSplit split);              // "train", "test"
ReasonSplit reason_split(std::string_view name);  // kInvalidInput
ReasonSplit split_of(const ReasonProblem& problem);

// Problem `index` under `seed`. kInvalidInput: options out of range.
ReasonProblem make_reason(const ReasonOptions& options, ReasonSplit split, uint64_t seed,
                          uint64_t index);

// The texts in pieces, each of which is one token of the reasoners' tokenizer (share/models): a
// data source looks the few pieces up once, and then needs no tokenizer.
std::span<const std::string> reason_pieces();
struct ReasonPieces {
  std::vector<uint16_t> prompt, completion;  // indices into reason_pieces()
};
ReasonPieces write_reason(const ReasonProblem& problem, uint64_t seed, uint64_t index);
std::string join_pieces(std::span<const uint16_t> pieces);

// Reads a prompt back. Nothing: it is no such problem, down to a missing space.
std::optional<ReasonProblem> parse_reason(std::string_view prompt);

// A line of the working, or the answer's (`name` and the rest empty).
struct ReasonSentence {
  std::string name;  // of the value that it makes
  std::string left, op, right, result;
  bool operator==(const ReasonSentence&) const = default;
};
// Without the synonyms. Nothing: it is no sentence of this kind.
std::optional<ReasonSentence> parse_sentence(std::string_view sentence);
// Whether two sentences say the same in other words. Texts that are no sentences of this kind: only
// if they are equal.
bool same_meaning(std::string_view a, std::string_view b);

struct ReasonVerdict {
  bool finished = false;   // it ends with the answer's line, whatever it says
  bool right = false;      // and says the right one
  size_t right_steps = 0;  // lines from the first on that are what they should be, synonyms aside
};
// Of any text that a model wrote to the problem's prompt.
ReasonVerdict check_reason(const ReasonProblem& problem, std::string_view completion);

}  // namespace weft::tasks
