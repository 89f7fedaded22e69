#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "base/error.h"
#include "base/progress.h"
#include "bench/vocab_tables.h"
#include "bench/vocab_tasks.h"
#include "text/vocabtailor/calibrate_vocab.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using text::Token;
using text::VocabMode;

constexpr size_t kEvery = 4;  // prompt 3, 7, ... of a task are held out

struct Replayed {
  size_t identical = 0, steps = 0, escapes = 0, misses = 0, rejected = 0, largest_set = 0;
  double seconds = 0;
};

// Answers the held-out prompts again, one at a time, and compares with what the whole head said.
Replayed replay(const text::TextModel& model, std::span<const text::TaskDocument> documents,
                const text::VocabChoice& choice, size_t max_tokens, const CoreSet& cores,
                StopToken stop) {
  Replayed out;
  const auto decoder = model.make_decoder(cores, {.capacity_tokens = 0, .keep_prefixes = false});
  for (size_t i = kEvery - 1; i < documents.size(); i += kEvery) {
    stop.throw_if_stopped();
    decoder->start(1, {.prompt = documents[i].prompt,
                       .sampling = {.temperature = 0},
                       .max_tokens = max_tokens,
                       .vocab = choice});
    std::vector<Token> answer;
    Clock::time_point first;
    for (bool ended = false; !ended;) {
      const bool empty = answer.empty();
      for (const text::DecodedToken& decoded : decoder->step({})) {
        if (decoded.error) throw *decoded.error;
        if (ended) break;
        answer.push_back(decoded.sampled.token);
        ended = decoded.last || model.tokenizer().is_end(decoded.sampled.token);
      }
      if (empty && !answer.empty()) first = Clock::now();
    }
    out.seconds += std::chrono::duration<double>(Clock::now() - first).count();
    const text::VocabUse use = decoder->vocab_use(1);
    decoder->finish(1);
    out.identical += answer == documents[i].answer ? 1 : 0;
    out.steps += answer.size();
    out.escapes += use.escapes;
    out.misses += use.misses;
    out.rejected += use.rejected;
    out.largest_set = std::max(out.largest_set, use.size);
  }
  return out;
}

double share(size_t part, size_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

void bench_vocab_tasks(const BenchOptions& options, const text::TextModel& model,
                       const CoreSet& cores, Report& report) {
  const size_t prompts_per_task = options.quick ? 32 : 240;
  const text::AnswerOptions answering{.max_tokens = options.quick ? size_t{32} : size_t{64}};
  Table sets{.name = fmt::format("{}: sets of five tasks ({} prompts each, a quarter held out)",
                                 model.name(), prompts_per_task),
             .columns = {"task", "from prompts", "set", "with prompt", "MiB", "of MiB", "saved",
                         "steps covered", "answers whole"},
             .rows = {}};
  Table answers{.name = fmt::format("{}: held-out greedy answers under each mode", model.name()),
                .columns = {"task", "mode", "identical", "escapes /1000", "misses", "rejected /1000",
                            "tokens/s ratio"},
                .rows = {}};
  double least_saved = 1, sum_identical = 0, sum_verified = 0;
  size_t num_tasks = 0;
  for (const VocabTask& task : vocab_tasks(prompts_per_task, 1)) {
    std::vector<std::vector<Token>> prompts;
    for (const std::string& prompt : task.prompts)
      prompts.push_back(model.has_chat_template()
                            ? model.encode_chat(std::vector<text::ChatMessage>{
                                  {.role = "user", .content = prompt}})
                            : model.encode_prompt(prompt));
    Progress progress("Answering: " + task.name, 0, "answers");
    const std::vector<text::TaskDocument> documents = text::answer_prompts(
        model, prompts, answering, cores, options.stop, progress.callback());
    const text::Calibration made =
        text::calibrate_vocab(model, documents, prompts.size(),
                              {.name = task.name, .tolerance = 0, .held_out_share = 1.0 / kEvery},
                              cores, options.stop);
    const auto head = model.make_vocab_head(&made.profile, cores);
    const text::PackedHead::Memory memory = head->memory();
    const Replayed off = replay(model, documents, {}, answering.max_tokens, cores, options.stop);
    size_t largest_set = 0;
    const size_t held_out = documents.size() / kEvery;
    for (const VocabMode mode :
         {VocabMode::kStatic, VocabMode::kHybrid, VocabMode::kVerify, VocabMode::kDraft}) {
      const Replayed got = replay(model, documents, {.mode = mode, .head = head},
                                  answering.max_tokens, cores, options.stop);
      const double speed = static_cast<double>(got.steps) / got.seconds /
                           (static_cast<double>(off.steps) / off.seconds);
      answers.rows.push_back({cell(task.name), cell(std::string(text::name(mode))),
                              percent(share(got.identical, held_out)),
                              cell(1000 * share(got.escapes, got.steps), 1),
                              cell(static_cast<double>(got.misses), 0),
                              cell(1000 * share(got.rejected, got.steps), 1), cell(speed, 3)});
      if (mode == VocabMode::kHybrid) {
        sum_identical += share(got.identical, held_out);
        largest_set = got.largest_set;
      }
      if (mode == VocabMode::kVerify) sum_verified += share(got.identical, held_out);
      if (mode == VocabMode::kDraft && got.identical != off.identical)
        fail(ErrorKind::kInvalidInput, "{}: drafts changed an answer of task {}", model.name(),
             task.name);
    }
    const text::CoveragePoint& chosen = *std::find_if(
        made.profile.curve.begin(), made.profile.curve.end(),
        [&](const auto& point) { return point.size == made.profile.ids.size(); });
    sets.rows.push_back({cell(task.name), percent(made.overlap),
                         cell(static_cast<double>(head->set().size()), 0),
                         cell(static_cast<double>(largest_set), 0),
                         cell(static_cast<double>(memory.packed_bytes + memory.map_bytes) / (1 << 20), 2),
                         cell(static_cast<double>(memory.full_bytes) / (1 << 20), 1),
                         {fmt::format("{:.1f}%", 100 * memory.saved()), memory.saved()},
                         {fmt::format("{:.2f}%", 100 * chosen.step_coverage), chosen.step_coverage},
                         percent(chosen.documents_without_miss)});
    least_saved = std::min(least_saved, memory.saved());
    ++num_tasks;
  }
  report.tables.push_back(std::move(sets));
  report.tables.push_back(std::move(answers));
  report.summary["vocab_memory_saved"] = least_saved;
  report.summary["greedy_identical"] = sum_identical / static_cast<double>(num_tasks);
  report.summary["greedy_identical_verify"] = sum_verified / static_cast<double>(num_tasks);
}

}  // namespace weft::bench
