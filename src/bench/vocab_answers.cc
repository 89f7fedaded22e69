#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/progress.h"
#include "base/seconds.h"
#include "bench/vocab_tables.h"
#include "bench/vocab_tasks.h"
#include "text/kv_tasks.h"
#include "text/vocabtailor/calibrate_vocab.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using text::Token;
using text::VocabMode;

// How much of each task is done.
struct Amounts {
  size_t learned, held_out;  // prompts, all different
  size_t samples;            // of the learned ones, besides the greedy answer
  size_t compared;           // of the held-out ones, by the modes whose answers are not in question
  size_t timed;              // of them, one at a time
  size_t max_tokens;
  double answers;  // share that the larger set is to keep whole
};
constexpr Amounts kFull{.learned = 240,
                        .held_out = 200,
                        .samples = 2,
                        .compared = 60,
                        .timed = 12,
                        .max_tokens = 64,
                        .answers = 0.99};
constexpr Amounts kQuick{.learned = 32,
                         .held_out = 16,
                         .samples = 0,
                         .compared = 16,
                         .timed = 4,
                         .max_tokens = 32,
                         .answers = 0.95};

constexpr size_t kBatch = 16;

struct Compared {
  size_t answers = 0, identical = 0, steps = 0, escapes = 0, misses = 0, rejected = 0, screened = 0,
         largest_set = 0;
};

// A way to answer, and what came of it.
struct Way {
  std::string profile;  // "off", or how its set was made
  text::VocabChoice choice;
  Compared compared = {};
  double seconds = 0;  // of the timed answers, without their first tokens
  size_t tokens = 0;

  double speed() const { return static_cast<double>(tokens) / seconds; }
};

// Answers prompts again, several at a time, and compares with what the whole head said.
Compared compare(const text::TextModel& model, std::span<const text::TaskDocument> documents,
                 const text::VocabChoice& choice, size_t max_tokens, const CoreSet& cores,
                 StopToken stop) {
  Compared out{.answers = documents.size()};
  const auto decoder = model.make_decoder(
      cores, {.capacity_tokens = kBatch * model.context_length(), .keep_prefixes = true});
  std::vector<std::vector<Token>> answers(documents.size());
  std::vector<uint8_t> ended(documents.size());
  size_t started = 0, running = 0;
  for (size_t done = 0; done < documents.size();) {
    stop.throw_if_stopped();
    for (; running < kBatch && started < documents.size(); ++started, ++running)
      decoder->start(started, {.prompt = documents[started].prompt,
                               .sampling = {.temperature = 0},
                               .max_tokens = max_tokens,
                               .vocab = choice});
    std::vector<text::RequestId> finished;
    for (const text::DecodedToken& decoded : decoder->step({})) {
      if (decoded.error) throw *decoded.error;
      if (ended[decoded.request] != 0) continue;  // a draft's tokens after its end
      answers[decoded.request].push_back(decoded.sampled.token);
      if (!decoded.last && !model.tokenizer().is_end(decoded.sampled.token)) continue;
      ended[decoded.request] = 1;
      finished.push_back(decoded.request);
    }
    for (const text::RequestId id : finished) {
      const text::VocabUse use = decoder->vocab_use(id);
      decoder->finish(id);
      out.identical += answers[id] == documents[id].answer ? 1 : 0;
      out.steps += answers[id].size();
      out.escapes += use.escapes;
      out.misses += use.misses;
      out.rejected += use.rejected;
      out.screened += use.screened;
      out.largest_set = std::max(out.largest_set, use.size);
    }
    running -= finished.size();
    done += finished.size();
  }
  return out;
}

// One answer, alone: adds its later tokens and their seconds.
void time_answer(text::Decoder& decoder, const text::TextModel& model,
                 std::span<const Token> prompt, size_t max_tokens, Way& way) {
  constexpr text::RequestId kId = 1;
  decoder.start(kId, {.prompt = {prompt.begin(), prompt.end()},
                      .sampling = {.temperature = 0},
                      .max_tokens = max_tokens,
                      .vocab = way.choice});
  size_t got = 0;
  Clock::time_point first;
  for (bool ended = false; !ended;) {
    const bool none = got == 0;
    for (const text::DecodedToken& decoded : decoder.step({})) {
      if (decoded.error) throw *decoded.error;
      if (ended) break;
      ++got;
      ended = decoded.last || model.tokenizer().is_end(decoded.sampled.token);
    }
    if (none && got != 0) first = Clock::now();
  }
  way.seconds += seconds_since(first);
  way.tokens += got - 1;
  decoder.finish(kId);
}

// All ways in turns, so that a machine that slows down slows all of them.
void time_answers(const text::TextModel& model, std::span<const text::TaskDocument> documents,
                  size_t max_tokens, std::span<Way> ways, const CoreSet& cores, StopToken stop) {
  const auto decoder = model.make_decoder(cores, {.capacity_tokens = 0, .keep_prefixes = true});
  for (size_t i = 0; i < documents.size(); ++i)
    for (size_t w = 0; w < ways.size(); ++w) {
      stop.throw_if_stopped();
      time_answer(*decoder, model, documents[i].prompt, max_tokens, ways[(i + w) % ways.size()]);
    }
}

double share(size_t part, size_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::vector<std::vector<Token>> encode(const text::TextModel& model,
                                       std::span<const std::string> prompts) {
  std::vector<std::vector<Token>> out;
  for (const std::string& prompt : prompts)
    out.push_back(model.has_chat_template() ? model.encode_chat(std::vector<text::ChatMessage>{
                                                  {.role = "user", .content = prompt}})
                                            : model.encode_prompt(prompt));
  return out;
}

// A set made from a task's learned answers, as the tables name it.
struct Made {
  std::string name;
  text::Calibration calibration;
  std::shared_ptr<const text::PackedHead> head;
};

void add_set_row(const std::string& task, const Made& made, size_t largest_set,
                 size_t sketch_bytes, Table& table) {
  const text::VocabProfile& profile = made.calibration.profile;
  const text::PackedHead::Memory memory = made.head->memory();
  const text::CoveragePoint& chosen =
      *std::find_if(profile.curve.begin(), profile.curve.end(),
                    [&](const auto& point) { return point.size == profile.ids.size(); });
  const auto mib = [](size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  table.rows.push_back({cell(task),
                        cell(made.name),
                        percent(made.calibration.overlap),
                        cell(static_cast<double>(made.head->set().size()), 0),
                        cell(static_cast<double>(largest_set), 0),
                        cell(mib(memory.packed_bytes + memory.map_bytes), 2),
                        cell(mib(memory.full_bytes), 1),
                        {fmt::format("{:.1f}%", 100 * memory.saved()), memory.saved()},
                        percent(memory.saved(sketch_bytes)),
                        {fmt::format("{:.2f}%", 100 * chosen.step_coverage), chosen.step_coverage},
                        {fmt::format("{:.1f}%", 100 * chosen.documents_without_miss),
                         chosen.documents_without_miss}});
}

void add_answer_row(const std::string& task, const Way& way, double off_speed, Table& table) {
  const Compared& c = way.compared;
  const text::Interval interval = text::wilson(c.identical, c.answers);
  table.rows.push_back(
      {cell(task),
       cell(way.profile),
       cell(std::string(text::name(way.choice.mode))),
       cell(fmt::format("{} of {}", c.identical, c.answers)),
       {fmt::format("{:.1f}%", 100 * share(c.identical, c.answers)), share(c.identical, c.answers)},
       cell(fmt::format("{:.0f} to {:.0f}%", 100 * interval.low, 100 * interval.high)),
       cell(1000 * share(c.escapes, c.steps), 1),
       cell(static_cast<double>(c.misses), 0),
       cell(1000 * share(c.rejected, c.steps), 1),
       cell(share(c.screened, c.steps), 1),
       cell(way.speed() / off_speed, 3)});
}

// The worst and the mean of a figure over tasks.
void keep(nlohmann::ordered_json& summary, const std::string& name, double value,
          size_t num_tasks) {
  summary[name] = (summary.value(name, 0.0) * static_cast<double>(num_tasks) + value) /
                  static_cast<double>(num_tasks + 1);
  summary[name + "_least"] = std::min(summary.value(name + "_least", 1.0), value);
}

}  // namespace

void bench_vocab_tasks(const BenchOptions& options, std::span<const std::string> names,
                       const text::TextModel& model, const CoreSet& cores, Report& report) {
  const Amounts& amounts = options.quick ? kQuick : kFull;
  const std::string larger = fmt::format("{:.0f} % whole", 100 * amounts.answers);
  Table sets{.name = fmt::format("{}: sets of tasks, learned from {} prompts of each", model.name(),
                                 amounts.learned),
             .columns = {"task", "made for", "from prompts", "set", "with prompt", "MiB", "of MiB",
                         "saved", "with a sketch", "steps covered", "answers whole"},
             .rows = {}};
  Table answers{.name = fmt::format(
                    "{}: {} other prompts of each task, greedily ({} by static, verify, draft)",
                    model.name(), amounts.held_out, amounts.compared),
                .columns = {"task", "made for", "mode", "identical", "share", "95 %, Wilson",
                            "escapes /1000", "misses", "rejected /1000", "rows screened a step",
                            "tokens/s ratio"},
                .rows = {}};
  size_t num_tasks = 0;
  for (const VocabTask& task : vocab_tasks(amounts.learned + amounts.held_out, 1)) {
    if (std::find(names.begin(), names.end(), task.name) == names.end()) continue;
    const std::vector<std::vector<Token>> prompts = encode(model, task.prompts);
    const auto answer = [&](const std::string& what, std::span<const std::vector<Token>> some,
                            const text::AnswerOptions& how) {
      Progress progress(what + ": " + task.name, 0, "answers");
      return text::answer_prompts(model, some, how, cores, options.stop, progress.callback());
    };
    const std::vector<text::TaskDocument> learned =
        answer("Learning", std::span(prompts).first(amounts.learned),
               {.max_tokens = amounts.max_tokens,
                .samples = amounts.samples,
                .batch = kBatch,
                .runner_ups = text::kRunnerUps});
    const std::vector<text::TaskDocument> others =
        answer("Answering", std::span(prompts).subspan(amounts.learned),
               {.max_tokens = amounts.max_tokens, .batch = kBatch});
    const std::span<const text::TaskDocument> held_out = others;
    // The small one from the greedy answers alone, as before there were samples.
    const auto make = [&](const std::string& name, double share_of_answers) {
      const auto documents =
          share_of_answers > 0
              ? std::span<const text::TaskDocument>(learned)
              : std::span<const text::TaskDocument>(learned).first(amounts.learned);
      Made made{.name = name,
                .calibration = text::calibrate_vocab(
                    model, documents, amounts.learned,
                    {.name = task.name, .tolerance = 0, .answers = share_of_answers}, cores,
                    options.stop),
                .head = nullptr};
      made.head = model.make_vocab_head(&made.calibration.profile, cores);
      return made;
    };
    const Made small = make("tolerance 0", 0), large = make(larger, amounts.answers);
    std::vector<Way> ways = {{"off", {}}};
    for (const VocabMode mode :
         {VocabMode::kStatic, VocabMode::kHybrid, VocabMode::kScreen, VocabMode::kVerify,
          VocabMode::kDraft})
      ways.push_back({small.name, {.mode = mode, .head = small.head}});
    for (const VocabMode mode : {VocabMode::kHybrid, VocabMode::kVerify, VocabMode::kDraft})
      ways.push_back({large.name, {.mode = mode, .head = large.head}});
    Progress progress("Comparing: " + task.name, ways.size(), "modes");
    for (size_t w = 1; w < ways.size(); ++w) {
      const bool all = ways[w].choice.mode == VocabMode::kHybrid ||
                       ways[w].choice.mode == VocabMode::kScreen;
      ways[w].compared = compare(model, all ? held_out : held_out.first(amounts.compared),
                                 ways[w].choice, amounts.max_tokens, cores, options.stop);
      if (ways[w].choice.mode == VocabMode::kDraft &&
          ways[w].compared.identical != ways[w].compared.answers)
        fail(ErrorKind::kInvalidInput, "{}: drafts changed an answer of task {}", model.name(),
             task.name);
      progress.callback()(w, ways.size());
    }
    time_answers(model, held_out.first(amounts.timed), amounts.max_tokens, ways, cores,
                 options.stop);
    for (const Made* made : {&small, &large}) {
      for (size_t w = 1; w < ways.size(); ++w) {
        if (ways[w].profile != made->name) continue;
        add_answer_row(task.name, ways[w], ways[0].speed(), answers);
        const double identical = share(ways[w].compared.identical, ways[w].compared.answers);
        const char* const suffix = made == &small ? "_small" : "";
        if (ways[w].choice.mode == VocabMode::kVerify)
          keep(report.summary, fmt::format("greedy_identical_verify{}", suffix), identical,
               num_tasks);
        const size_t sketch_bytes = model.vocab_sketch_bytes();
        if (ways[w].choice.mode == VocabMode::kScreen) {
          keep(report.summary, "greedy_identical_screen", identical, num_tasks);
          keep(report.summary, "vocab_memory_saved_screen",
               made->head->memory().saved(sketch_bytes), num_tasks);
        }
        if (ways[w].choice.mode != VocabMode::kHybrid) continue;
        add_set_row(task.name, *made, ways[w].compared.largest_set, sketch_bytes, sets);
        keep(report.summary, fmt::format("greedy_identical{}", suffix), identical, num_tasks);
        keep(report.summary, fmt::format("vocab_memory_saved{}", suffix),
             made->head->memory().saved(), num_tasks);
      }
    }
    ++num_tasks;
  }
  report.notes.push_back(
      "Answers whole: of learned prompts while they were held out, those that no step of which "
      "misses "
      "a token;\nthe other prompts decide nothing, they are only looked at.");
  report.tables.push_back(std::move(sets));
  report.tables.push_back(std::move(answers));
}

}  // namespace weft::bench
