#include "text/kv_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace weft::text {
namespace {

constexpr size_t kQuestions = 8;
constexpr size_t kAnswerTokens = 48;  // the longest right answer has some 40

constexpr std::array kPeople = {"Anna",  "Boris", "Clara", "David", "Elena", "Frank",
                                "Greta", "Hugo",  "Irene", "Jonas", "Karla", "Louis"};
constexpr std::array kPlaces = {"market", "harbour", "station", "library", "park",
                                "bakery", "museum",  "garden",  "bridge",  "school"};
constexpr std::array kThings = {"a red umbrella",     "an old map",  "two loaves of bread",
                                "a silver watch",     "a letter",    "a basket of apples",
                                "three wax candles",  "a blue coat", "a small lamp",
                                "a worn wooden chair"};
constexpr std::array kCities = {"Paris", "London", "Berlin", "Madrid", "Rome",   "Vienna",
                                "Oslo",  "Lisbon", "Athens", "Dublin", "Prague", "Warsaw"};

class Draw {
 public:
  Draw(KvTask task, uint64_t seed, size_t context)
      : seed_(seed), stream_(context * 2 + static_cast<size_t>(task)) {}
  size_t below(size_t n) {
    return static_cast<size_t>(uniform(seed_, stream_, next_++) * static_cast<double>(n));
  }
  template <typename List>
  const char* of(const List& list) {
    return list[below(list.size())];
  }

 private:
  uint64_t seed_, stream_;
  uint32_t next_ = 0;
};

std::string small_talk(Draw& draw) {
  const char* const person = draw.of(kPeople);
  const char* const place = draw.of(kPlaces);
  const char* const thing = draw.of(kThings);
  switch (draw.below(5)) {
    case 0:
      return fmt::format("{} walked to the {} and bought {}. ", person, place, thing);
    case 1:
      return fmt::format("In the morning {} carried {} to the {}. ", person, thing, place);
    case 2:
      return fmt::format("{} waited at the {} until the rain stopped. ", person, place);
    case 3:
      return fmt::format("At the {}, {} told a story about {}. ", place, person, thing);
    default:
      return fmt::format("Nobody at the {} knew that {} had lost {}. ", place, person, thing);
  }
}

size_t count_tokens(const formats::Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.encode(text, {.add_special = false, .parse_special = false}).size();
}

KvTaskContext needle(Draw& draw, const formats::Tokenizer& tokenizer,
                     const KvTaskOptions& options) {
  KvTaskContext out;
  std::vector<const char*> cities(kCities.begin(), kCities.end());
  std::vector<std::string> lines;
  for (size_t tokens = kQuestions * 14; tokens < options.context_tokens;) {
    lines.push_back(small_talk(draw));
    tokens += count_tokens(tokenizer, lines.back());
  }
  for (size_t i = 0; i < kQuestions; ++i) {
    const size_t which = draw.below(cities.size());
    const std::string city = cities[which], code = std::to_string(1000 + draw.below(9000));
    cities.erase(cities.begin() + static_cast<ptrdiff_t>(which));
    lines.insert(lines.begin() + static_cast<ptrdiff_t>((2 * i + 1) * lines.size() / 16),
                 fmt::format("The secret code of {} is {}. ", city, code));
    out.questions.push_back({.question = fmt::format("\n\nQuestion: What is the secret code of {}?\n"
                                                     "Answer: The secret code of {} is",
                                                     city, city),
                             .answer = code});
  }
  for (const std::string& line : lines) out.text += line;
  return out;
}

struct Sum {
  std::string question, working;
};

Sum make_sum(Draw& draw) {
  size_t sum = 2 + draw.below(8);
  Sum out{.question = fmt::format("Question: What is {}", sum), .working = {}};
  for (int i = 0; i < 3; ++i) {
    const size_t next = 2 + draw.below(8);
    out.question += fmt::format(" + {}", next);
    out.working += fmt::format(" {} + {} = {}.", sum, next, sum + next);
    sum += next;
  }
  out.question += "?\nAnswer:";
  out.working += fmt::format(" The answer is {}.\n\n", sum);
  return out;
}

KvTaskContext sums(Draw& draw, const formats::Tokenizer& tokenizer, const KvTaskOptions& options) {
  KvTaskContext out;
  for (size_t tokens = 0; tokens < options.context_tokens;) {
    const Sum example = make_sum(draw);
    out.text += example.question + example.working;
    tokens += count_tokens(tokenizer, example.question + example.working);
  }
  for (size_t i = 0; i < kQuestions; ++i) {
    const Sum sum = make_sum(draw);
    const size_t said = sum.working.find("The answer is");
    out.questions.push_back({.question = sum.question,
                             .answer = sum.working.substr(said, sum.working.size() - said - 2)});
  }
  return out;
}

std::string answer(const models::LanguageModel& model, const formats::Tokenizer& tokenizer,
                   ReplayCache& cache, std::span<const models::Token> question,
                   models::Workspace& workspace, std::vector<float>& logits, const CoreSet& cores) {
  std::string text;
  std::vector<models::Token> said, next(question.begin(), question.end());
  for (size_t i = 0; i < kAnswerTokens; ++i) {
    cache.forward(model, next, models::LogitsWanted::kLast, logits.data(), workspace, cores);
    const auto best = std::max_element(logits.begin(), logits.end());
    next.assign(1, static_cast<models::Token>(best - logits.begin()));
    if (tokenizer.is_end(next[0])) break;
    said.push_back(next[0]);
    text = tokenizer.decode(said);
    if (text.find('\n') != std::string::npos) break;
  }
  return text;
}

}  // namespace

const char* name(KvTask task) { return task == KvTask::kNeedle ? "needle" : "sums"; }

KvTaskContext make_kv_task(KvTask task, const formats::Tokenizer& tokenizer,
                           const KvTaskOptions& options, size_t context) {
  WEFT_ASSERT(options.questions >= 1 && options.questions <= kQuestions);
  Draw draw(task, options.seed, context);
  KvTaskContext out = task == KvTask::kNeedle ? needle(draw, tokenizer, options)
                                              : sums(draw, tokenizer, options);
  out.questions.resize(options.questions);
  return out;
}

bool is_right(KvTask task, const KvQuestion& question, const std::string& text) {
  if (task == KvTask::kSums) return text.find(question.answer) != std::string::npos;
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string::npos || text.compare(first, question.answer.size(), question.answer) != 0)
    return false;
  const size_t after = first + question.answer.size();
  return after == text.size() || text[after] < '0' || text[after] > '9';
}

Interval wilson(size_t right, size_t total) {
  if (total == 0) return {0, 1};
  constexpr double z = 1.959964;  // 97.5 % of the normal distribution
  const auto n = static_cast<double>(total);
  const double p = static_cast<double>(right) / n, z2 = z * z / n;
  const double middle = (p + z2 / 2) / (1 + z2);
  const double half = z * std::sqrt(p * (1 - p) / n + z2 / n / 4) / (1 + z2);
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

Interval bootstrap_mean(std::span<const double> values, size_t group, uint64_t seed) {
  WEFT_ASSERT(group != 0 && !values.empty() && values.size() % group == 0);
  constexpr size_t kDraws = 2000;
  const size_t groups = values.size() / group;
  std::vector<double> sums(groups), means(kDraws);
  for (size_t i = 0; i < values.size(); ++i) sums[i / group] += values[i];
  for (size_t d = 0; d < kDraws; ++d) {
    for (size_t i = 0; i < groups; ++i)
      means[d] += sums[static_cast<size_t>(uniform(seed, d, static_cast<uint32_t>(i)) *
                                           static_cast<double>(groups))];
    means[d] /= static_cast<double>(values.size());
  }
  std::sort(means.begin(), means.end());
  return {means[kDraws / 40], means[kDraws - 1 - kDraws / 40]};
}

size_t KvTaskResult::num_right() const {
  return static_cast<size_t>(std::count(right.begin(), right.end(), uint8_t{1}));
}

std::vector<KvTaskResult> run_kv_task(const models::LanguageModel& model,
                                      const formats::Tokenizer& tokenizer, KvTask task,
                                      std::span<const ReplayMethod> methods,
                                      const KvTaskOptions& options, const CoreSet& cores,
                                      StopToken stop, const ProgressFn& progress) {
  const models::LanguageModelConfig& config = model.config();
  std::vector<ReplayMethod> all = {{.name = "16 bit"}};
  all.insert(all.end(), methods.begin(), methods.end());
  std::vector<KvTaskResult> results;
  for (const ReplayMethod& method : all) results.push_back({.method = method.name, .right = {}});
  const auto workspace = model.make_workspace();
  std::vector<float> logits(config.vocab_size);
  for (size_t c = 0; c < options.num_contexts; ++c) {
    const KvTaskContext context = make_kv_task(task, tokenizer, options, c);
    const std::vector<models::Token> text =
        tokenizer.encode(context.text, {.add_special = true, .parse_special = false});
    std::vector<std::vector<models::Token>> questions;
    size_t longest = 0;
    for (const KvQuestion& q : context.questions) {
      questions.push_back(
          tokenizer.encode(q.question, {.add_special = false, .parse_special = false}));
      longest = std::max(longest, questions.back().size());
    }
    const size_t length = text.size() + longest + kAnswerTokens;
    if (length > config.context_length)
      fail(ErrorKind::kInvalidInput,
           "{}: contexts of {} tokens with question and answer; the model's limit is {}. Ask for "
           "shorter ones.",
           name(task), length, config.context_length);
    for (size_t m = 0; m < all.size(); ++m) {
      ReplayCache cache(all[m], config, model.kv_shape(), length);
      results[m].peak_bytes = std::max(results[m].peak_bytes, cache.peak_bytes());
      constexpr size_t kPass = 256;
      for (size_t at = 0; at < text.size(); at += kPass) {
        stop.throw_if_stopped();
        const auto piece = std::span(text).subspan(at, std::min(kPass, text.size() - at));
        cache.forward(model, piece, models::LogitsWanted::kLast, logits.data(), *workspace, cores);
      }
      for (size_t q = 0; q < questions.size(); ++q) {
        stop.throw_if_stopped();
        cache.branch();
        const std::string said =
            answer(model, tokenizer, cache, questions[q], *workspace, logits, cores);
        cache.rejoin();
        results[m].right.push_back(is_right(task, context.questions[q], said) ? 1 : 0);
      }
      if (progress) progress(c * all.size() + m + 1, options.num_contexts * all.size());
    }
  }
  return results;
}

}  // namespace weft::text
