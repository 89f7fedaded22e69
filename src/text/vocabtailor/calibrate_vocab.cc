#include "text/vocabtailor/calibrate_vocab.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "base/error.h"
#include "text/kv_cache.h"
#include "text/vocabtailor/token_order.h"
#include "text/vocabtailor/vocab_set.h"

namespace weft::text {
namespace {

using Size = size_t;  // of the static set: so many of the order's first tokens

// One step of a held-out answer under the whole head.
struct Step {
  size_t document = 0;
  Size best_needs = 0;       // the smallest size that has the best token
  std::vector<double> mass;  // probability of the set, of each size of the curve
  double top_in_set = 0;     // best probability within the chosen set, renormalised
  double entropy_in_set = 0;
  bool miss = false;  // the best token is not in the chosen set
};

// Sizes of the static set to look at, ascending; the chosen one and all of the counted ones are
// among them.
std::vector<Size> curve_sizes(Size all, Size counted, Size chosen) {
  std::vector<Size> sizes = {0, counted, chosen, all};
  for (Size size = 32; size < all; size *= 2) {
    sizes.push_back(size);
    if (size + size / 2 < all) sizes.push_back(size + size / 2);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

Token best_of(std::span<const float> logits) {
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Reads answers again and shows the whole head's logits of each of their steps.
class Replay {
 public:
  Replay(const TextModel& model, const CoreSet& cores)
      : model_(model), cores_(cores), workspace_(model.model().make_workspace()) {}

  template <typename Visit>  // visit(std::span<const float> logits), step by step
  void run(const TaskDocument& document, Visit&& visit) {
    if (document.answer.empty()) return;
    std::vector<Token> tokens = document.prompt;
    tokens.insert(tokens.end(), document.answer.begin(), document.answer.end());
    tokens.pop_back();  // nothing follows it
    const models::LanguageModelConfig& c = model_.model().config();
    KvCache cache({.num_layers = c.num_layers,
                   .shape = model_.model().kv_shape(),
                   .capacity_tokens = tokens.size()});
    const SequenceId sequence = cache.create();
    WEFT_ASSERT(cache.reserve(sequence, tokens.size()));
    const size_t first = document.prompt.size() - 1;
    for (size_t at = 0; at < tokens.size(); at += kPieceTokens) {
      const auto piece =
          std::span<const Token>(tokens).subspan(at, std::min(kPieceTokens, tokens.size() - at));
      float* const hidden = hidden_.need(kPieceTokens * c.hidden_size);
      const models::SequenceInput input[] = {{.sequence = sequence,
                                              .tokens = piece,
                                              .first_position = at,
                                              .logits = models::LogitsWanted::kNone,
                                              .hidden = hidden}};
      model_.model().forward(input, cache, nullptr, *workspace_, cores_);
      const size_t skip = first > at ? std::min(first - at, piece.size()) : 0;
      for (size_t row = skip; row < piece.size(); row += kHeadRows) {
        const size_t rows = std::min(kHeadRows, piece.size() - row);
        float* const logits = logits_.need(kHeadRows * c.vocab_size);
        model_.model().head(hidden + row * c.hidden_size, rows, logits, *workspace_, cores_);
        for (size_t r = 0; r < rows; ++r)
          visit(std::span<const float>(logits + r * c.vocab_size, c.vocab_size));
      }
    }
  }

 private:
  static constexpr size_t kPieceTokens = 256, kHeadRows = 8;

  const TextModel& model_;
  const CoreSet& cores_;
  std::unique_ptr<models::Workspace> workspace_;
  Scratch<float> hidden_, logits_;
};

// How sizes of the set do at one step.
class Curve {
 public:
  Curve(const OrderedSizes& order, std::vector<Size> sizes, Size chosen, size_t vocab_size)
      : order_(order), sizes_(std::move(sizes)), static_levels_(vocab_size) {
    chosen_level_ = level_of(chosen);
    for (size_t id = 0; id < vocab_size; ++id)
      static_levels_[id] =
          static_cast<uint32_t>(level_of(order_.size_with(static_cast<Token>(id))));
  }

  void begin(const TaskDocument& document) {
    levels_ = static_levels_;
    for (const Token token : document.prompt) levels_[static_cast<size_t>(token)] = 0;
  }

  Step look_at(std::span<const float> logits, size_t document) const {
    const auto best = static_cast<size_t>(best_of(logits));
    Step step{.document = document,
              .best_needs = levels_[best] == 0 ? 0 : order_.size_with(static_cast<Token>(best)),
              .mass = std::vector<double>(sizes_.size() + 1)};
    const float max = logits[best];
    float best_in_set = -INFINITY;
    double weighted = 0;  // of those in the chosen set: sum of weight * (logit - max)
    for (size_t v = 0; v < logits.size(); ++v) {
      const float below = logits[v] - max;
      const bool in_set = levels_[v] <= chosen_level_;
      if (in_set) best_in_set = std::max(best_in_set, below);
      if (below < -30) continue;  // 1e-13 each
      const double weight = std::exp(double{below});
      step.mass[levels_[v]] += weight;
      if (in_set) weighted += weight * below;
    }
    std::partial_sum(step.mass.begin(), step.mass.end(), step.mass.begin());
    const double in_set = step.mass[chosen_level_], all = step.mass.back();
    step.top_in_set = in_set > 0 ? std::exp(double{best_in_set}) / in_set : 0;
    step.entropy_in_set = in_set > 0 ? std::log(in_set) - weighted / in_set : 0;
    for (double& mass : step.mass) mass /= all;
    step.miss = levels_[best] > chosen_level_;
    return step;
  }

 private:
  size_t level_of(Size size) const {
    return static_cast<size_t>(std::lower_bound(sizes_.begin(), sizes_.end(), size) -
                               sizes_.begin());
  }

  const OrderedSizes& order_;
  std::vector<Size> sizes_;
  size_t chosen_level_ = 0;
  // Of each token, the first size of the curve that has it: without and with a prompt's.
  std::vector<uint32_t> static_levels_, levels_;
};

// The best token of a step of a held-out answer, and the smallest size that has it.
struct Need {
  size_t document = 0;
  Size size = 0;
};

// needs: document by document.
CoveragePoint point_of(std::span<const Need> needs, Size size) {
  CoveragePoint point{.size = size};
  size_t covered = 0, documents = 0, clean = 0;
  for (size_t i = 0; i < needs.size();) {
    const size_t document = needs[i].document;
    bool no_miss = true;
    for (; i < needs.size() && needs[i].document == document; ++i) {
      const bool in = needs[i].size <= size;
      covered += in ? 1 : 0;
      no_miss = no_miss && in;
    }
    ++documents;
    clean += no_miss ? 1 : 0;
  }
  if (needs.empty()) return point;
  point.step_coverage = static_cast<double>(covered) / static_cast<double>(needs.size());
  point.documents_without_miss = static_cast<double>(clean) / static_cast<double>(documents);
  return point;
}

void add_mass(std::span<const Step> steps, size_t level, CoveragePoint& point) {
  if (steps.empty()) return;
  std::vector<double> mass;
  for (const Step& step : steps) mass.push_back(step.mass[level]);
  std::sort(mass.begin(), mass.end());
  point.mass_mean =
      std::accumulate(mass.begin(), mass.end(), 0.0) / static_cast<double>(mass.size());
  point.mass_p1 = mass[mass.size() / 100];
}

// The lowest bound on the best token's probability that catches nine misses in ten, as far as at most
// one step in eight then asks the whole head; one step in fifty where nothing was missed.
void choose_signals(const std::vector<Step>& steps, Calibration& out) {
  constexpr double kRecall = 0.9, kMostEscapes = 0.125, kWithoutMisses = 0.02;
  if (steps.empty()) return;
  std::vector<double> tops, missed;
  std::vector<double> entropies;
  for (const Step& step : steps) {
    tops.push_back(step.top_in_set);
    entropies.push_back(step.entropy_in_set);
    if (step.miss) missed.push_back(step.top_in_set);
  }
  const auto quantile = [](std::vector<double>& values, double q) {
    std::sort(values.begin(), values.end());
    return values[std::min(values.size() - 1,
                           static_cast<size_t>(q * static_cast<double>(values.size())))];
  };
  const double most = quantile(tops, kMostEscapes);
  const double wanted =
      missed.empty() ? quantile(tops, kWithoutMisses) : quantile(missed, kRecall) + 1e-6;
  VerifySignals& signals = out.profile.verify;
  // Rounded as the file rounds, so that a profile from the file behaves like one from here.
  signals.least_top_probability =
      static_cast<float>(std::round(std::min(wanted, most) * 1e6) / 1e6);
  signals.most_entropy = static_cast<float>(std::round(quantile(entropies, 0.995) * 1e6) / 1e6);
  size_t escapes = 0, caught = 0;
  for (const Step& step : steps) {
    const bool asks = static_cast<float>(step.top_in_set) < signals.least_top_probability ||
                      static_cast<float>(step.entropy_in_set) > signals.most_entropy;
    escapes += asks ? 1 : 0;
    caught += asks && step.miss ? 1 : 0;
  }
  out.escape_share = static_cast<double>(escapes) / static_cast<double>(steps.size());
  if (!missed.empty())
    out.miss_recall = static_cast<double>(caught) / static_cast<double>(missed.size());
}

// A step's likeliest tokens, and the one that was said.
void add_plausible(const Sampled& sampled, std::vector<float>& plausible) {
  bool said = false;
  for (const TokenLogprob& top : sampled.top) {
    plausible[static_cast<size_t>(top.token)] += std::exp(top.logprob);
    said = said || top.token == sampled.token;
  }
  if (!said) plausible[static_cast<size_t>(sampled.token)] += std::exp(sampled.logprob);
}

std::vector<TokenShare> above_zero(std::span<const float> plausible) {
  std::vector<TokenShare> out;
  for (size_t id = 0; id < plausible.size(); ++id)
    if (plausible[id] > 0) out.push_back({static_cast<Token>(id), plausible[id]});
  return out;
}

}  // namespace

std::vector<TaskDocument> answer_prompts(const TextModel& model,
                                         std::span<const std::vector<Token>> prompts,
                                         const AnswerOptions& options, const CoreSet& cores,
                                         StopToken stop, const ProgressFn& progress) {
  const size_t count = prompts.size() * (1 + options.samples);
  std::vector<TaskDocument> out(count);
  const auto decoder = model.make_decoder(
      cores, {.capacity_tokens = options.batch * model.context_length(), .keep_prefixes = true});
  std::map<RequestId, std::vector<float>> plausible;  // of the running ones, by id of the token
  size_t started = 0, running = 0, done = 0;
  while (done < count) {
    stop.throw_if_stopped();
    for (; running < options.batch && started < count; ++started, ++running) {
      const size_t round = started / prompts.size();
      out[started].prompt = prompts[started % prompts.size()];
      decoder->start(started, {.prompt = out[started].prompt,
                               .sampling = {.temperature = round == 0 ? 0 : options.temperature,
                                            .seed = options.seed},
                               .random_stream = round,
                               .max_tokens = options.max_tokens,
                               .want_logprobs = options.runner_ups > 0,
                               .num_top_logprobs = options.runner_ups});
      if (options.runner_ups > 0) plausible[started].resize(model.model().config().vocab_size);
    }
    std::vector<RequestId> ended;
    for (const DecodedToken& decoded : decoder->step({})) {
      if (decoded.error) throw *decoded.error;
      out[decoded.request].answer.push_back(decoded.sampled.token);
      if (options.runner_ups > 0) add_plausible(decoded.sampled, plausible[decoded.request]);
      if (decoded.last || model.tokenizer().is_end(decoded.sampled.token))
        ended.push_back(decoded.request);
    }
    for (const RequestId id : ended) {
      decoder->finish(id);
      if (options.runner_ups == 0) continue;
      out[id].plausible = above_zero(plausible[id]);
      plausible.erase(id);
    }
    running -= ended.size();
    done += ended.size();
    if (progress) progress(done, count);
  }
  return out;
}

namespace {

// The prompts, cut into parts of which one at a time can be held out.
struct Parts {
  size_t count = 0;
  std::vector<size_t> of;        // of each prompt; those that are the same go together
  std::vector<uint8_t> repeats;  // it came before
};

Parts cut(std::span<const TaskDocument> prompts, size_t count) {
  Parts parts;
  parts.count = count;
  std::map<std::vector<Token>, size_t> seen;
  for (const TaskDocument& document : prompts) {
    const auto [known, is_new] = seen.try_emplace(document.prompt, seen.size());
    parts.of.push_back(known->second % count);
    parts.repeats.push_back(is_new ? 0 : 1);
  }
  return parts;
}

// Calibrating one task's documents.
class Task {
 public:
  Task(const TextModel& model, std::span<const TaskDocument> documents, size_t num_prompts,
       const CalibrateOptions& options, const CoreSet& cores, StopToken stop,
       const ProgressFn& progress)
      : model_(model),
        documents_(documents),
        num_prompts_(num_prompts),
        options_(options),
        cores_(cores),
        stop_(stop),
        progress_(progress),
        vocab_size_(model.model().config().vocab_size),
        required_(required_tokens(model.tokenizer(), model.chat_template_text())),
        parts_(cut(documents.first(num_prompts),
                   static_cast<size_t>(std::max(2.0, std::round(1 / options.held_out_share))))) {}

  // The set by tolerance or size, from all parts but the last, which tells how it does.
  Calibration by_tolerance() {
    const std::vector<TaskDocument> counted = without(parts_.count - 1);
    const std::vector<TokenCount> ranked = count(counted);
    Size chosen = drop_rarest(ranked, options_.tolerance, counted.size()).size();
    if (options_.size != 0) chosen = std::min(options_.size, ranked.size());
    std::vector<uint32_t> order;
    for (const TokenCount& token : ranked) order.push_back(token.id);
    const OrderedSizes sizes(order, required_, vocab_size_);
    Calibration out;
    out.overlap = overlap_with_prompts(counted);
    out.profile.tolerance = options_.tolerance;
    const std::vector<Size> curve = curve_sizes(ranked.size(), ranked.size(), chosen);
    const std::vector<Step> steps = replay_last_part(sizes, curve, chosen);
    std::vector<Need> needs;
    for (const Step& step : steps) needs.push_back({step.document, step.best_needs});
    draw_curve(curve, needs, steps, out);
    write(order, ranked, chosen, counted.size(), out);
    return out;
  }

  // The set that keeps a share of new answers whole: from all parts, and as large as each part's
  // answers ask for when the others alone have made the order.
  Calibration by_answers() {
    const auto different = std::count(parts_.repeats.begin(), parts_.repeats.end(), uint8_t{0});
    check_enough(num_prompts_, static_cast<size_t>(different), options_);
    std::vector<Need> needs;
    std::vector<Size> needed;
    for (size_t part = 0; part < parts_.count; ++part) {
      const OrderedSizes sizes(order_without(part), required_, vocab_size_);
      for (size_t i = 0; i < num_prompts_; ++i) {
        if (parts_.of[i] != part || parts_.repeats[i] != 0) continue;
        const TaskDocument& document = documents_[i];
        const std::unordered_set<Token> given(document.prompt.begin(), document.prompt.end());
        Size most = 0;
        for (const Token token : document.answer) {
          needs.push_back({i, given.contains(token) ? 0 : sizes.size_with(token)});
          most = std::max(most, needs.back().size);
        }
        needed.push_back(most);
      }
    }
    const std::optional<Size> wanted = size_for_answers(needed, options_.answers);
    const std::vector<uint32_t> all = order_without(parts_.count);  // which is none
    const Size most = std::min(largest(), all.size()), chosen = std::min(*wanted, most);
    Calibration out;
    out.reached = *wanted <= most;
    out.recommended_size = chosen;
    out.tried = needed.size();
    out.overlap = overlap_with_prompts(documents_);
    out.profile.answers = options_.answers;
    const std::vector<TokenCount> ranked = count(documents_.first(num_prompts_));
    const OrderedSizes without_last(order_without(parts_.count - 1), required_, vocab_size_);
    const std::vector<Size> curve = curve_sizes(most, std::min(ranked.size(), most), chosen);
    draw_curve(curve, needs, replay_last_part(without_last, curve, chosen), out);
    write(all, ranked, chosen, documents_.size(), out);
    return out;
  }

 private:
  std::vector<TaskDocument> without(size_t part) const {
    std::vector<TaskDocument> out;
    for (size_t i = 0; i < documents_.size(); ++i)
      if (parts_.of[i % num_prompts_] != part) out.push_back(documents_[i]);
    return out;
  }

  std::vector<TokenCount> count(std::span<const TaskDocument> documents) const {
    std::vector<TokenCount> ranked = count_needed_tokens(documents, model_.tokenizer());
    if (options_.scripts.empty()) return ranked;
    return keep_scripts(std::move(ranked), options_.scripts, model_.tokenizer());
  }

  // From the answers to all prompts but a part's: what the greedy ones said, then what was
  // plausible there or in the samples. (What a sample said is as likely again as its probability
  // tells.)
  std::vector<uint32_t> order_without(size_t part) const {
    std::vector<TaskDocument> greedy;
    std::vector<float> plausible(vocab_size_);
    for (size_t i = 0; i < documents_.size(); ++i) {
      if (parts_.of[i % num_prompts_] == part) continue;
      if (i < num_prompts_) greedy.push_back(documents_[i]);
      for (const TokenShare& share : documents_[i].plausible)
        plausible[static_cast<size_t>(share.token)] += share.probability;
    }
    std::vector<uint32_t> ids = order_tokens(count(greedy), plausible, model_.tokenizer());
    if (options_.scripts.empty()) return ids;
    std::vector<TokenCount> tokens;
    for (const uint32_t id : ids) tokens.push_back({.id = id});
    ids.clear();
    for (const TokenCount& token :
         keep_scripts(std::move(tokens), options_.scripts, model_.tokenizer()))
      ids.push_back(token.id);
    return ids;
  }

  // Of a static set that requests will gather: with the required tokens and a prompt's.
  Size largest() const {
    size_t longest_prompt = 0;
    for (const TaskDocument& document : documents_)
      longest_prompt = std::max(longest_prompt, document.prompt.size());
    const auto most = static_cast<size_t>(kLargestSetShare * static_cast<double>(vocab_size_));
    const size_t others = required_.size() + longest_prompt;
    return most > others ? most - others : 0;
  }

  // Greedy answers alone: those are what a miss changes.
  std::vector<Step> replay_last_part(const OrderedSizes& sizes,
                                     const std::vector<Size>& curve_sizes, Size chosen) {
    Replay replay(model_, cores_);
    Curve curve(sizes, curve_sizes, chosen, vocab_size_);
    std::vector<Step> steps;
    const auto total =
        static_cast<size_t>(std::count(parts_.of.begin(), parts_.of.end(), parts_.count - 1));
    size_t done = 0;
    for (size_t i = 0; i < num_prompts_; ++i) {
      if (parts_.of[i] != parts_.count - 1) continue;
      stop_.throw_if_stopped();
      curve.begin(documents_[i]);
      replay.run(documents_[i],
                 [&](std::span<const float> logits) { steps.push_back(curve.look_at(logits, i)); });
      if (progress_) progress_(++done, total);
    }
    return steps;
  }

  void draw_curve(const std::vector<Size>& sizes, std::span<const Need> needs,
                  const std::vector<Step>& steps, Calibration& out) const {
    for (size_t level = 0; level < sizes.size(); ++level) {
      CoveragePoint point = point_of(needs, sizes[level]);
      add_mass(steps, level, point);
      out.profile.curve.push_back(point);
      if (options_.answers > 0 || out.reached || point.documents_without_miss < options_.target)
        continue;
      out.reached = true;
      out.recommended_size = sizes[level];
    }
    choose_signals(steps, out);
  }

  void write(std::span<const uint32_t> order, std::span<const TokenCount> ranked, Size chosen,
             size_t num_documents, Calibration& out) const {
    VocabProfile& profile = out.profile;
    profile.name = options_.name;
    profile.source = options_.source;
    profile.tokenizer = tokenizer_hash(model_.tokenizer());
    profile.vocab_size = vocab_size_;
    profile.documents = num_documents;
    std::map<uint32_t, uint32_t> df;  // by id
    for (const uint32_t id : order.first(chosen)) df[id] = 0;
    for (const TokenCount& token : ranked)
      if (const auto kept = df.find(token.id); kept != df.end()) kept->second = token.df;
    for (const auto& [id, documents] : df) {
      profile.ids.push_back(id);
      profile.df.push_back(documents);
    }
  }

  const TextModel& model_;
  std::span<const TaskDocument> documents_;
  size_t num_prompts_;
  const CalibrateOptions& options_;
  const CoreSet& cores_;
  StopToken stop_;
  const ProgressFn& progress_;
  size_t vocab_size_;
  std::vector<uint32_t> required_;
  Parts parts_;
};

}  // namespace

void check_enough(size_t num_prompts, size_t num_different, const CalibrateOptions& options) {
  constexpr size_t kFewest = 4;
  if (!(options.answers >= 0 && options.answers < 1))
    fail(ErrorKind::kInvalidInput,
         "a share of {} of all answers cannot be promised: ask for less than 1", options.answers);
  if (options.answers > 0 && num_different < fewest_answers(options.answers))
    fail(ErrorKind::kInvalidInput,
         "{} different prompts are too few to keep {:.4g} % of new answers whole: give at least "
         "{}, or ask for less",
         num_different, 100 * options.answers, fewest_answers(options.answers));
  if (num_prompts < kFewest)
    fail(ErrorKind::kInvalidInput,
         "{} documents are too few to learn from and to hold some out: give at least {}",
         num_prompts, kFewest);
}

Calibration calibrate_vocab(const TextModel& model, std::span<const TaskDocument> documents,
                            size_t num_prompts, const CalibrateOptions& options,
                            const CoreSet& cores, StopToken stop, const ProgressFn& progress) {
  check_enough(num_prompts, num_prompts, options);
  Task task(model, documents, num_prompts, options, cores, stop, progress);
  return options.answers > 0 ? task.by_answers() : task.by_tolerance();
}

}  // namespace weft::text
