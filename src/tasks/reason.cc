#include "tasks/reason.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"

namespace weft::tasks {
namespace {

constexpr std::string_view kOperators = "+-*";
constexpr std::array<std::string_view, 5> kFirstWords = {"So", "Then", "Next", "Now", "Hence"};
constexpr std::array<std::string_view, 5> kVerbs = {"gives", "makes", "is", "yields", "equals"};
constexpr std::string_view kLet = "Let", kFind = "Find", kMod = "mod", kAnswer = "Answer";

// Where each kind of piece begins in reason_pieces().
enum Piece : uint16_t {
  kDigit = 0,
  kSpace = 10,
  kComma,
  kStop,
  kEndOfLine,
  kEquals,
  kOperator,
  kLetPiece = kOperator + 3,
  kFindPiece,
  kModPiece,
  kAnswerPiece,
  kFirstWord,
  kVerb = kFirstWord + 5,
  kName = kVerb + 5,
  kNumPieces = kName + kMaxReasonSteps + 1
};

std::string name_of(size_t index) {
  if (index < 26) return {static_cast<char>('a' + index)};
  return {static_cast<char>('a' + (index - 26) / 26), static_cast<char>('a' + (index - 26) % 26)};
}

std::optional<size_t> index_of_name(std::string_view name) {
  for (const char c : name)
    if (c < 'a' || c > 'z') return std::nullopt;
  size_t index = 0;
  if (name.size() == 1)
    index = static_cast<size_t>(name[0] - 'a');
  else if (name.size() == 2)
    index = 26 + 26 * static_cast<size_t>(name[0] - 'a') + static_cast<size_t>(name[1] - 'a');
  else
    return std::nullopt;
  return index <= kMaxReasonSteps ? std::optional(index) : std::nullopt;
}

size_t digits_of(unsigned modulus) { return modulus == 1000 ? 3 : 2; }

std::string number(unsigned value, unsigned modulus) {
  return fmt::format("{:0{}}", value, digits_of(modulus));
}

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

unsigned apply(char op, unsigned left, unsigned right, unsigned modulus) {
  if (op == '+') return (left + right) % modulus;
  if (op == '-') return (left + modulus - right) % modulus;
  return left * right % modulus;
}

// The random numbers of one purpose.
class Draw {
 public:
  Draw(uint64_t seed, uint64_t index, uint32_t purpose)
      : seed_(seed), index_(index), purpose_(purpose) {}
  double next() { return uniform(seed_, index_, next_++, purpose_); }
  size_t below(size_t n) { return static_cast<size_t>(next() * static_cast<double>(n)); }

 private:
  uint64_t seed_, index_;
  uint32_t purpose_, next_ = 0;
};
constexpr uint32_t kSynonyms = std::numeric_limits<uint32_t>::max();

void check_options(const ReasonOptions& o) {
  const auto refuse = [](const std::string& why) {
    fail(ErrorKind::kInvalidInput, "reason: {}", why);
  };
  if (o.modulus != 100 && o.modulus != 1000)
    refuse(fmt::format("the modulus is {}; it can be 100 or 1000.", o.modulus));
  if (o.min_steps == 0 || o.min_steps > o.max_steps || o.max_steps > kMaxReasonSteps)
    refuse(fmt::format("from {} to {} steps; they must be from 1 to {}, the least first.",
                       o.min_steps, o.max_steps, kMaxReasonSteps));
  if (o.operators.empty() || o.operators.find_first_not_of(kOperators) != std::string::npos)
    refuse(fmt::format("the operators are '{}'; there are +, - and *.", o.operators));
  for (const char op : o.operators)
    if (std::count(o.operators.begin(), o.operators.end(), op) > 1)
      refuse(fmt::format("the operators are '{}'; name each once.", o.operators));
  if (o.max_factor < 2 || o.max_factor >= o.modulus)
    refuse(
        fmt::format("factors up to {}; they must be from 2 to {}.", o.max_factor, o.modulus - 1));
  if (!(o.link_share >= 0 && o.link_share <= 1))
    refuse(fmt::format("the share of links is {}; it must be from 0 to 1.", o.link_share));
}

size_t draw_steps(const ReasonOptions& o, Draw& draw) {
  if (!o.many_short) return o.min_steps + draw.below(o.max_steps - o.min_steps + 1);
  const double low = std::log(static_cast<double>(o.min_steps) - 0.5);
  const double high = std::log(static_cast<double>(o.max_steps) + 0.5);
  const auto steps = static_cast<size_t>(std::lround(std::exp(low + (high - low) * draw.next())));
  return std::clamp(steps, o.min_steps, o.max_steps);
}

ReasonProblem draw_problem(const ReasonOptions& o, Draw& draw) {
  ReasonProblem out{.modulus = o.modulus, .steps = {}};
  const size_t steps = draw_steps(o, draw);
  out.first_name = draw.below(kMaxReasonSteps - steps + 1);
  out.start = static_cast<unsigned>(draw.below(o.modulus));
  std::vector<unsigned> values = {out.start};
  for (size_t i = 0; i < steps; ++i) {
    ReasonStep step{.op = o.operators[draw.below(o.operators.size())]};
    const bool links = draw.next() < o.link_share && i > 0 && step.op != '*';
    if (links) {
      step.link = draw.below(i);  // not the value just made: it is the left side already
      step.operand = values[*step.link];
    } else if (step.op == '*') {
      step.operand = 2 + static_cast<unsigned>(draw.below(o.max_factor - 1));
    } else {
      step.operand = 1 + static_cast<unsigned>(draw.below(o.modulus - 1));
    }
    values.push_back(apply(step.op, values.back(), step.operand, o.modulus));
    out.steps.push_back(step);
  }
  return out;
}

// Pieces put behind each other.
class Writer {
 public:
  explicit Writer(unsigned modulus) : modulus_(modulus) {}
  Writer& operator<<(uint16_t piece) {
    pieces_.push_back(piece);
    return *this;
  }
  Writer& number(unsigned value) {
    pieces_.push_back(kSpace);
    for (unsigned unit = modulus_ / 10; unit > 0; unit /= 10)
      pieces_.push_back(static_cast<uint16_t>(kDigit + value / unit % 10));
    return *this;
  }
  Writer& name(size_t index) { return *this << static_cast<uint16_t>(kName + index); }
  Writer& op(char c) { return *this << static_cast<uint16_t>(kOperator + kOperators.find(c)); }
  std::vector<uint16_t> take() { return std::move(pieces_); }

 private:
  unsigned modulus_;
  std::vector<uint16_t> pieces_;
};

// Takes known texts off the front.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}
  bool skip(std::string_view expected) {
    if (!text_.starts_with(expected)) return false;
    text_.remove_prefix(expected.size());
    return true;
  }
  std::string_view word() {  // up to the next space, comma or full stop
    const std::string_view word = text_.substr(0, text_.find_first_of(" ,."));
    text_.remove_prefix(word.size());
    return word;
  }
  bool done() const { return text_.empty(); }

 private:
  std::string_view text_;
};

std::optional<unsigned> read_number(std::string_view word, size_t digits) {
  if (word.size() != digits || !is_number(word)) return std::nullopt;
  unsigned value = 0;
  for (const char c : word) value = value * 10 + static_cast<unsigned>(c - '0');
  return value;
}

std::optional<char> read_operator(std::string_view word) {
  if (word.size() != 1 || kOperators.find(word[0]) == std::string_view::npos) return std::nullopt;
  return word[0];
}

template <typename T>
T number(std::string_view setting, std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end)
    fail(ErrorKind::kInvalidInput, "reason: '{}': '{}' is no number", setting, text);
  return value;
}

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \n") - first + 1);
}

template <typename Enum, size_t N>
Enum named(std::string_view what, std::string_view name, const std::array<Enum, N>& all) {
  std::string known;
  for (const Enum value : all) {
    if (name == tasks::name(value)) return value;
    known.append(known.empty() ? "" : ", ").append(tasks::name(value));
  }
  fail(ErrorKind::kInvalidInput, "reason: there is no {} '{}'. There are {}.", what, name, known);
}

}  // namespace

const char* name(ReasonLevel level) {
  constexpr std::array kNames = {"easy", "medium", "hard", "extreme", "linked", "mixed"};
  return kNames[static_cast<size_t>(level)];
}

ReasonLevel reason_level(std::string_view name) { return named("level", name, kReasonLevels); }

ReasonOptions options_of(ReasonLevel level) {
  switch (level) {
    case ReasonLevel::kEasy:
      return {.min_steps = 2, .max_steps = 4};
    case ReasonLevel::kMedium:
      return {.min_steps = 8, .max_steps = 12};
    case ReasonLevel::kHard:
      return {.min_steps = 24, .max_steps = 40};
    case ReasonLevel::kExtreme:
      return {.min_steps = 80, .max_steps = 100};
    case ReasonLevel::kLinked:
      return {.min_steps = 8, .max_steps = 12, .link_share = 0.25};
    case ReasonLevel::kMixed:
      return {.min_steps = 2, .max_steps = 100, .many_short = true, .link_share = 0.25};
  }
  return {};
}

ReasonOptions reason_options(std::string_view level) {
  size_t end = level.find(':');
  ReasonOptions out = options_of(reason_level(level.substr(0, end)));
  while (end != std::string_view::npos) {
    const size_t begin = end + 1;
    end = level.find(':', begin);
    const std::string_view setting = level.substr(begin, end - begin);
    const size_t equals = std::min(setting.find('='), setting.size());
    const std::string_view key = setting.substr(0, equals);
    const std::string_view value = setting.substr(std::min(equals + 1, setting.size()));
    if (key == "steps") {
      const size_t dash = value.find('-');
      out.min_steps = number<size_t>(setting, value.substr(0, dash));
      out.max_steps = dash == std::string_view::npos
                          ? out.min_steps
                          : number<size_t>(setting, value.substr(dash + 1));
      out.many_short = false;
    } else if (key == "operators") {
      out.operators = value;
    } else if (key == "modulus") {
      out.modulus = number<unsigned>(setting, value);
    } else if (key == "links") {
      out.link_share = number<double>(setting, value);
    } else if (key == "factor") {
      out.max_factor = number<unsigned>(setting, value);
    } else {
      fail(ErrorKind::kInvalidInput,
           "reason: '{}': there is no setting '{}'. There are steps, operators, modulus, links and "
           "factor, as in easy:steps=1-2:operators=+-",
           level, key);
    }
  }
  check_options(out);
  return out;
}

std::vector<unsigned> ReasonProblem::values() const {
  std::vector<unsigned> out = {start};
  for (const ReasonStep& step : steps)
    out.push_back(apply(step.op, out.back(), step.operand, modulus));
  return out;
}

const char* name(ReasonSplit split) { return split == ReasonSplit::kTest ? "test" : "train"; }

ReasonSplit reason_split(std::string_view name) {
  return named("split", name, std::array{ReasonSplit::kTrain, ReasonSplit::kTest});
}

ReasonSplit split_of(const ReasonProblem& problem) {
  // SplitMix64's finaliser, chained.
  uint64_t hash = problem.modulus;
  const auto add = [&hash](uint64_t value) {
    hash = (hash ^ value) + 0x9E3779B97F4A7C15;
    hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9;
    hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EB;
    hash ^= hash >> 31;
  };
  add(problem.start);
  for (const ReasonStep& step : problem.steps) {
    add(static_cast<uint64_t>(step.op));
    add(step.link ? 1000 + *step.link : step.operand);
  }
  return hash % 10 == 0 ? ReasonSplit::kTest : ReasonSplit::kTrain;
}

ReasonProblem make_reason(const ReasonOptions& options, ReasonSplit split, uint64_t seed,
                          uint64_t index) {
  check_options(options);
  for (uint32_t attempt = 0; attempt < kSynonyms; ++attempt) {
    Draw draw(seed, index, attempt);
    ReasonProblem problem = draw_problem(options, draw);
    if (split_of(problem) == split) return problem;
  }
  fail(ErrorKind::kInvalidInput, "reason: these options have no {} problem.", name(split));
}

std::span<const std::string> reason_pieces() {
  static const std::vector<std::string> kPieces = [] {
    std::vector<std::string> out(kNumPieces);
    for (uint16_t d = 0; d < 10; ++d) out[kDigit + d] = std::to_string(d);
    out[kSpace] = " ";
    out[kComma] = ",";
    out[kStop] = ".";
    out[kEndOfLine] = ".\n";
    out[kEquals] = " =";
    for (size_t i = 0; i < 3; ++i) out[kOperator + i] = {' ', kOperators[i]};
    out[kLetPiece] = kLet;
    out[kFindPiece] = fmt::format(" {}", kFind);
    out[kModPiece] = fmt::format(" {}", kMod);
    out[kAnswerPiece] = kAnswer;
    for (size_t i = 0; i < 5; ++i) out[kFirstWord + i] = kFirstWords[i];
    for (size_t i = 0; i < 5; ++i) out[kVerb + i] = fmt::format(" {}", kVerbs[i]);
    for (size_t i = 0; i <= kMaxReasonSteps; ++i) out[kName + i] = " " + name_of(i);
    return out;
  }();
  return kPieces;
}

ReasonPieces write_reason(const ReasonProblem& problem, uint64_t seed, uint64_t index) {
  Draw draw(seed, index, kSynonyms);
  const std::vector<unsigned> values = problem.values();
  Writer prompt(problem.modulus), completion(problem.modulus);
  const size_t first = problem.first_name, last = first + problem.steps.size();
  prompt << kLetPiece;
  prompt.name(first) << kEquals;
  prompt.number(problem.start);
  for (size_t i = 0; i < problem.steps.size(); ++i) {
    const ReasonStep& step = problem.steps[i];
    prompt << kComma;
    prompt.name(first + i + 1) << kEquals;
    prompt.name(first + i).op(step.op);
    if (step.link)
      prompt.name(first + *step.link);
    else
      prompt.number(step.operand);
    completion << static_cast<uint16_t>(kFirstWord + draw.below(kFirstWords.size()));
    completion.name(first + i + 1) << kEquals;
    completion.number(values[i]).op(step.op).number(step.operand)
        << static_cast<uint16_t>(kVerb + draw.below(kVerbs.size()));
    completion.number(values[i + 1]) << kEndOfLine;
  }
  prompt << kStop << kFindPiece;
  prompt.name(last) << kModPiece << kSpace << kDigit + 1;
  for (size_t i = 0; i < digits_of(problem.modulus); ++i) prompt << kDigit;
  prompt << kStop;
  completion << kAnswerPiece;
  completion.number(values.back()) << kStop;
  return {prompt.take(), completion.take()};
}

std::string join_pieces(std::span<const uint16_t> pieces) {
  std::string out;
  for (const uint16_t piece : pieces) out += reason_pieces()[piece];
  return out;
}

std::optional<ReasonProblem> parse_reason(std::string_view prompt) {
  ReasonProblem out{.steps = {}};
  Reader in(prompt);
  if (!in.skip("Let ")) return std::nullopt;
  const std::optional<size_t> first = index_of_name(in.word());
  if (!first || !in.skip(" = ")) return std::nullopt;
  const std::string_view start = in.word();
  const size_t digits = start.size();
  const std::optional<unsigned> start_value = read_number(start, digits);
  if ((digits != 2 && digits != 3) || !start_value) return std::nullopt;
  out.modulus = digits == 2 ? 100 : 1000;
  out.first_name = *first;
  out.start = *start_value;
  std::vector<unsigned> values = {out.start};
  size_t last = *first;
  while (in.skip(", ")) {
    if (index_of_name(in.word()) != last + 1 || !in.skip(" = ")) return std::nullopt;
    if (index_of_name(in.word()) != last || !in.skip(" ")) return std::nullopt;
    const std::optional<char> op = read_operator(in.word());
    if (!op || !in.skip(" ")) return std::nullopt;
    const std::string_view right = in.word();
    ReasonStep step{.op = *op};
    if (const std::optional<unsigned> value = read_number(right, digits)) {
      step.operand = *value;
    } else {
      const std::optional<size_t> link = index_of_name(right);
      if (!link || *link < *first || *link > last) return std::nullopt;
      step.link = *link - *first;
      step.operand = values[*step.link];
    }
    values.push_back(apply(step.op, values.back(), step.operand, out.modulus));
    out.steps.push_back(step);
    ++last;
  }
  if (out.steps.empty() || !in.skip(". Find ") || index_of_name(in.word()) != last)
    return std::nullopt;
  if (!in.skip(fmt::format(" mod {}.", out.modulus)) || !in.done()) return std::nullopt;
  return out;
}

std::optional<ReasonSentence> parse_sentence(std::string_view sentence) {
  sentence = trimmed(sentence);
  if (!sentence.ends_with('.')) return std::nullopt;
  sentence.remove_suffix(1);
  std::vector<std::string_view> words;
  constexpr size_t kMostWords = 8;
  for (size_t begin = 0; begin <= sentence.size() && words.size() <= kMostWords;) {
    const size_t end = std::min(sentence.find(' ', begin), sentence.size());
    words.push_back(sentence.substr(begin, end - begin));
    begin = end + 1;
  }
  const auto one_of = [](std::string_view word, const auto& list) {
    return std::find(list.begin(), list.end(), word) != list.end();
  };
  ReasonSentence out;
  if (words.size() == 2 && words[0] == kAnswer && is_number(words[1])) {
    out.result = words[1];
    return out;
  }
  if (words.size() != kMostWords || !one_of(words[0], kFirstWords) || !index_of_name(words[1]) ||
      words[2] != "=" || !is_number(words[3]) || !read_operator(words[4]) || !is_number(words[5]) ||
      !one_of(words[6], kVerbs) || !is_number(words[7]))
    return std::nullopt;
  out.name = words[1];
  out.left = words[3];
  out.op = words[4];
  out.right = words[5];
  out.result = words[7];
  return out;
}

bool same_meaning(std::string_view a, std::string_view b) {
  const std::optional<ReasonSentence> first = parse_sentence(a), second = parse_sentence(b);
  return first && second ? *first == *second : a == b;
}

ReasonVerdict check_reason(const ReasonProblem& problem, std::string_view completion) {
  ReasonVerdict out;
  const std::vector<unsigned> values = problem.values();
  completion = trimmed(completion);
  bool right_so_far = true;
  for (size_t line = 0; !completion.empty(); ++line) {
    const size_t end = std::min(completion.find('\n'), completion.size());
    const std::optional<ReasonSentence> said = parse_sentence(completion.substr(0, end));
    completion.remove_prefix(std::min(end + 1, completion.size()));
    if (said && said->name.empty()) {  // the answer's line is the only one, and the last
      out.finished = completion.empty();
      out.right = out.finished && said->result == number(values.back(), problem.modulus);
      break;
    }
    if (line >= problem.steps.size() || !said) right_so_far = false;
    if (!right_so_far) continue;
    const ReasonStep& step = problem.steps[line];
    const ReasonSentence expected = {.name = name_of(problem.first_name + line + 1),
                                     .left = number(values[line], problem.modulus),
                                     .op = {step.op},
                                     .right = number(step.operand, problem.modulus),
                                     .result = number(values[line + 1], problem.modulus)};
    right_so_far = *said == expected;
    if (right_so_far) ++out.right_steps;
  }
  return out;
}

}  // namespace weft::tasks
