// The parts of `weft bench vocab`: one table each.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "base/thread_pool.h"
#include "bench/bench.h"
#include "bench/report.h"
#include "text/text_model.h"

namespace weft::bench {

// A head of `size` rows: the required ones, the others spread evenly over the vocabulary. Where they
// lie does not matter for time, only how many.
text::VocabProfile even_profile(const text::TextModel& model, size_t size);

// One packed product against the whole head's, for sizes of the set and numbers of threads; nothing
// else between two of them stays in the cache.
void bench_head_time(const BenchOptions& options, const text::TextModel& model,
                     ThreadPool& pool, Report& report);
// Answers at a short context with and without, beside the ratio of the bytes that each token reads
// (kHybrid); or where no proposal is right (kDraft).
void bench_decode(const BenchOptions& options, const text::TextModel& model, text::VocabMode mode,
                  const CoreSet& cores, Report& report);
// What gathering a prompt's rows adds to the time to its first token.
void bench_first_token(const BenchOptions& options, const text::TextModel& model,
                       const CoreSet& cores, Report& report);
// What the process holds after loading and answering, with and without.
void bench_vocab_memory(const BenchOptions& options, const std::filesystem::path& model,
                        const CoreSet& cores, Report& report);
// Profiles of the model's own answers to the named tasks, small ones (the paper's) and ones that
// keep new answers whole, and how answers to other prompts fare under each mode.
void bench_vocab_tasks(const BenchOptions& options, std::span<const std::string> names,
                       const text::TextModel& model, const CoreSet& cores, Report& report);

}  // namespace weft::bench
