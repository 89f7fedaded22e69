// What narrow keys and values cost in tasks, not in perplexity: finding what a text said once, and
// sums in several steps after worked examples. Every method reads the same contexts and answers the
// same questions greedily, beside the 16-bit cache; contexts are generated, so answers are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/tokenizer.h"
#include "models/language_model.h"
#include "text/kv_replay.h"

namespace weft::text {

enum class KvTask : uint8_t {
  kNeedle,  // eight codes spread over a text about other things; the question names one
  kSums,    // four numbers added one by one, after examples that fill the context
};
const char* name(KvTask task);  // "needle", "sums"

struct KvTaskOptions {
  size_t context_tokens = 1536;  // before the question, about
  size_t num_contexts = 12;
  size_t questions = 8;  // of each context: 1 to 8
  uint64_t seed = 1;
};

struct KvQuestion {
  std::string question, answer;  // right: the model's text begins with `answer`, or ends a line so
};
struct KvTaskContext {
  std::string text;
  std::vector<KvQuestion> questions;
};
KvTaskContext make_kv_task(KvTask task, const formats::Tokenizer& tokenizer,
                           const KvTaskOptions& options, size_t context);
// Of what the model wrote.
bool is_right(KvTask task, const KvQuestion& question, const std::string& text);

struct Interval {
  double low = 0, high = 0;
};
// 95 % of a share of `right` among `total`: Wilson's score interval.
Interval wilson(size_t right, size_t total);
// 95 % of the mean of `values`, whose groups of `group` belong together: the percentile bootstrap over
// groups, 2000 draws that depend on the seed alone.
Interval bootstrap_mean(std::span<const double> values, size_t group, uint64_t seed);

struct KvTaskResult {
  std::string method;
  size_t peak_bytes = 0;       // the largest of any context
  std::vector<uint8_t> right;  // (num_contexts, questions)

  size_t num_right() const;
};

// The first result is the 16-bit cache's. kInvalidInput as ReplayCache, or contexts that are longer
// than the model's.
std::vector<KvTaskResult> run_kv_task(const models::LanguageModel& model,
                                      const formats::Tokenizer& tokenizer, KvTask task,
                                      std::span<const ReplayMethod> methods,
                                      const KvTaskOptions& options, const CoreSet& cores,
                                      StopToken stop = {}, const ProgressFn& progress = {});

}  // namespace weft::text
