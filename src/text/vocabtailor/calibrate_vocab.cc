#include "text/vocabtailor/calibrate_vocab.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "text/kv_cache.h"

namespace weft::text {
namespace {

// One step of a held-out answer under the whole head.
struct Step {
  size_t document = 0;
  size_t best_level = 0;           // the smallest size of the curve that has the best token
  std::vector<double> mass;        // probability of the set, of each size
  double top_in_set = 0;           // best probability within the chosen set, renormalised
  double entropy_in_set = 0;
  bool miss = false;               // the best token is not in the chosen set
};

// Sizes of the static set to look at, ascending; the chosen one is among them.
std::vector<size_t> curve_sizes(size_t all, size_t chosen) {
  std::vector<size_t> sizes = {0, chosen, all};
  for (size_t size = 32; size < all; size *= 2) {
    sizes.push_back(size);
    if (size + size / 2 < all) sizes.push_back(size + size / 2);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

// Replays held-out answers through the whole head.
class Replay {
 public:
  Replay(const TextModel& model, std::span<const TokenCount> ranked, std::vector<size_t> sizes,
         size_t chosen, const CoreSet& cores)
      : model_(model), ranked_(ranked), sizes_(std::move(sizes)), cores_(cores),
        workspace_(model.model().make_workspace()),
        required_(required_tokens(model.tokenizer(), model.chat_template_text())) {
    chosen_level_ = static_cast<size_t>(
        std::find(sizes_.begin(), sizes_.end(), chosen) - sizes_.begin());
  }

  void add(const TaskDocument& document, size_t index, std::vector<Step>& steps) {
    if (document.answer.empty()) return;
    set_levels(document);
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
      for (size_t row = skip; row < piece.size(); row += kHeadRows)
        head(hidden + row * c.hidden_size, std::min(kHeadRows, piece.size() - row), index, steps);
    }
  }

 private:
  static constexpr size_t kPieceTokens = 256, kHeadRows = 8;

  // The smallest size of the curve at which the document's set has each token; sizes_.size(): none.
  void set_levels(const TaskDocument& document) {
    levels_.assign(model_.model().config().vocab_size, static_cast<uint32_t>(sizes_.size()));
    for (size_t rank = 0; rank < ranked_.size(); ++rank) {
      const auto level = std::upper_bound(sizes_.begin(), sizes_.end(), rank) - sizes_.begin();
      levels_[ranked_[rank].id] = static_cast<uint32_t>(level);
    }
    for (const uint32_t id : required_) levels_[id] = 0;
    for (const Token token : document.prompt) levels_[static_cast<size_t>(token)] = 0;
  }

  void head(const float* hidden, size_t num_rows, size_t document, std::vector<Step>& steps) {
    const size_t vocab_size = levels_.size();
    float* const logits = logits_.need(kHeadRows * vocab_size);
    model_.model().head(hidden, num_rows, logits, *workspace_, cores_);
    for (size_t row = 0; row < num_rows; ++row)
      steps.push_back(look_at({logits + row * vocab_size, vocab_size}, document));
  }

  Step look_at(std::span<const float> logits, size_t document) const {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    Step step{.document = document,
              .best_level = levels_[static_cast<size_t>(best)],
              .mass = std::vector<double>(sizes_.size() + 1)};
    const float max = logits[static_cast<size_t>(best)];
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
    step.miss = step.best_level > chosen_level_;
    return step;
  }

  const TextModel& model_;
  std::span<const TokenCount> ranked_;
  std::vector<size_t> sizes_;
  const CoreSet& cores_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<uint32_t> required_;
  size_t chosen_level_ = 0;
  std::vector<uint32_t> levels_;
  Scratch<float> hidden_, logits_;
};

CoveragePoint point_of(const std::vector<Step>& steps, size_t level, size_t size) {
  CoveragePoint point{.size = size};
  std::vector<double> mass;
  size_t covered = 0, documents = 0, clean = 0;
  for (size_t i = 0; i < steps.size();) {
    const size_t document = steps[i].document;
    bool no_miss = true;
    for (; i < steps.size() && steps[i].document == document; ++i) {
      const bool in = steps[i].best_level <= level;
      covered += in ? 1 : 0;
      no_miss = no_miss && in;
      mass.push_back(steps[i].mass[level]);
    }
    ++documents;
    clean += no_miss ? 1 : 0;
  }
  if (steps.empty()) return point;
  std::sort(mass.begin(), mass.end());
  point.step_coverage = static_cast<double>(covered) / static_cast<double>(steps.size());
  point.documents_without_miss = static_cast<double>(clean) / static_cast<double>(documents);
  point.mass_mean =
      std::accumulate(mass.begin(), mass.end(), 0.0) / static_cast<double>(mass.size());
  point.mass_p1 = mass[mass.size() / 100];
  return point;
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

}  // namespace

std::vector<TaskDocument> answer_prompts(const TextModel& model,
                                         std::span<const std::vector<Token>> prompts,
                                         const AnswerOptions& options, const CoreSet& cores,
                                         StopToken stop, const ProgressFn& progress) {
  const size_t count = prompts.size() * (1 + options.samples);
  std::vector<TaskDocument> out(count);
  const auto decoder = model.make_decoder(
      cores, {.capacity_tokens = options.batch * model.context_length(), .keep_prefixes = true});
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
                               .max_tokens = options.max_tokens});
    }
    std::vector<RequestId> ended;
    for (const DecodedToken& decoded : decoder->step({})) {
      if (decoded.error) throw *decoded.error;
      out[decoded.request].answer.push_back(decoded.sampled.token);
      if (decoded.last || model.tokenizer().is_end(decoded.sampled.token))
        ended.push_back(decoded.request);
    }
    for (const RequestId id : ended) decoder->finish(id);
    running -= ended.size();
    done += ended.size();
    if (progress) progress(done, count);
  }
  return out;
}

Calibration calibrate_vocab(const TextModel& model, std::span<const TaskDocument> documents,
                            size_t num_prompts, const CalibrateOptions& options,
                            const CoreSet& cores, StopToken stop, const ProgressFn& progress) {
  constexpr size_t kFewest = 4;
  if (num_prompts < kFewest)
    fail(ErrorKind::kInvalidInput, "{} documents are too few to learn from and to hold some out: "
         "give at least {}", num_prompts, kFewest);
  const auto every = static_cast<size_t>(std::max(2.0, std::round(1 / options.held_out_share)));
  std::vector<TaskDocument> counted, held_out;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (i % num_prompts % every != every - 1)
      counted.push_back(documents[i]);
    else if (i < num_prompts)  // greedy answers alone: those are what a miss changes
      held_out.push_back(documents[i]);
  }
  std::vector<TokenCount> ranked = count_needed_tokens(counted, model.tokenizer());
  if (!options.scripts.empty())
    ranked = keep_scripts(std::move(ranked), options.scripts, model.tokenizer());
  size_t chosen = drop_rarest(ranked, options.tolerance, counted.size()).size();
  if (options.size != 0) chosen = std::min(options.size, ranked.size());

  Calibration out;
  out.overlap = overlap_with_prompts(counted);
  const std::vector<size_t> sizes = curve_sizes(ranked.size(), chosen);
  Replay replay(model, ranked, sizes, chosen, cores);
  std::vector<Step> steps;
  for (size_t i = 0; i < held_out.size(); ++i) {
    stop.throw_if_stopped();
    replay.add(held_out[i], i, steps);
    if (progress) progress(i + 1, held_out.size());
  }
  VocabProfile& profile = out.profile;
  for (size_t level = 0; level < sizes.size(); ++level) {
    profile.curve.push_back(point_of(steps, level, sizes[level]));
    if (out.reached || profile.curve.back().documents_without_miss < options.target) continue;
    out.reached = true;
    out.recommended_size = sizes[level];
  }
  choose_signals(steps, out);
  profile.name = options.name;
  profile.source = options.source;
  profile.tokenizer = tokenizer_hash(model.tokenizer());
  profile.vocab_size = model.model().config().vocab_size;
  profile.documents = counted.size();
  profile.tolerance = options.tolerance;
  std::vector<TokenCount> kept(ranked.begin(), ranked.begin() + static_cast<ptrdiff_t>(chosen));
  std::sort(kept.begin(), kept.end(),
            [](const TokenCount& a, const TokenCount& b) { return a.id < b.id; });
  for (const TokenCount& count : kept) {
    profile.ids.push_back(count.id);
    profile.df.push_back(count.df);
  }
  return out;
}

}  // namespace weft::text
