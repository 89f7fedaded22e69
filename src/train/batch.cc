#include "train/batch.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <utility>

#include "base/error.h"

namespace weft::train {
namespace {

// The last token of an example is a target alone.
size_t rows_of(const Example& example) {
  return (example.tokens.size() - 1 + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
}

// Lengths of buckets, ascending, that fill up the fewest rows: dynamic programming over the
// distinct lengths. best[k][i]: rows of the i shortest lengths in k buckets.
std::vector<size_t> bucket_lengths(const std::map<size_t, size_t>& count_of, size_t max_buckets) {
  std::vector<size_t> lengths, counts;  // counts: of all lengths before
  counts.push_back(0);
  for (const auto& [length, count] : count_of) {
    lengths.push_back(length);
    counts.push_back(counts.back() + count);
  }
  const size_t n = lengths.size(), buckets = std::min(max_buckets, n);
  constexpr size_t kNever = std::numeric_limits<size_t>::max() / 2;
  std::vector<std::vector<size_t>> best(buckets + 1, std::vector<size_t>(n + 1, kNever));
  auto cut = best;
  best[0][0] = 0;
  for (size_t k = 1; k <= buckets; ++k)
    for (size_t i = k; i <= n; ++i)
      for (size_t j = k - 1; j < i; ++j) {
        const size_t rows = best[k - 1][j] + (counts[i] - counts[j]) * lengths[i - 1];
        if (rows < best[k][i]) best[k][i] = rows, cut[k][i] = j;
      }
  std::vector<size_t> out;
  for (size_t k = buckets, i = n; k > 0; i = cut[k--][i]) out.push_back(lengths[i - 1]);
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

Batch make_batch(std::span<const Example> examples, size_t max_buckets) {
  WEFT_ASSERT(!examples.empty() && max_buckets > 0);
  std::map<size_t, size_t> count_of;
  for (const Example& example : examples) {
    WEFT_ASSERT(example.tokens.size() >= 2 && example.learn.size() == example.tokens.size());
    ++count_of[rows_of(example)];
  }
  const std::vector<size_t> lengths = bucket_lengths(count_of, max_buckets);
  std::vector<std::vector<const Example*>> in_bucket(lengths.size());
  for (const Example& example : examples) {
    const auto at = std::lower_bound(lengths.begin(), lengths.end(), rows_of(example));
    in_bucket[static_cast<size_t>(at - lengths.begin())].push_back(&example);
  }

  Batch batch;
  for (size_t b = 0; b < lengths.size(); ++b) {
    batch.buckets.push_back({in_bucket[b].size(), lengths[b]});
    for (const Example* example : in_bucket[b]) {
      const size_t count = example->tokens.size() - 1, first = batch.tokens.size();
      for (size_t i = 0; i < lengths[b]; ++i) {
        const bool is_token = i < count;
        batch.tokens.push_back(is_token ? example->tokens[i] : 0);
        batch.positions.push_back(static_cast<int32_t>(i));
        batch.is_token.push_back(is_token ? 1 : 0);
        if (!is_token || example->learn[i + 1] == 0) continue;
        batch.wanted.push_back(static_cast<int64_t>(first + i));
        batch.targets.push_back(example->tokens[i + 1]);
      }
      batch.num_tokens += count;
    }
    batch.longest = std::max(batch.longest, lengths[b]);
  }
  return batch;
}

void fill_up(Batch& batch, size_t multiple) {
  WEFT_ASSERT(multiple > 0 && multiple % kRowMultiple == 0);
  const size_t rows = (batch.num_rows() + multiple - 1) / multiple * multiple;
  if (rows == batch.num_rows()) return;
  batch.buckets.push_back({1, rows - batch.num_rows()});
  batch.tokens.resize(rows);
  batch.positions.resize(rows);  // all 0: no rotation beyond `longest` is asked for
  batch.is_token.resize(rows);
}

BatchLoader::BatchLoader(const ExampleSource& source, const Options& options)
    : source_(source), options_(options) {
  WEFT_ASSERT(options.num_threads > 0);
  const auto start = [&](void (BatchLoader::*work)()) {
    threads_.emplace_back([this, work] {
      try {
        (this->*work)();
      } catch (...) {
        stop_with(std::current_exception());
      }
    });
  };
  for (size_t i = 0; i < options.num_threads; ++i) start(&BatchLoader::produce);
  start(&BatchLoader::assemble);
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void BatchLoader::stop_with(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = std::move(error);
  stopping_ = true;
  changed_.notify_all();
}

// Makes one chunk of examples after the other; several threads do.
void BatchLoader::produce() {
  while (true) {
    uint64_t chunk = 0;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || next_chunk_ < first_chunk_ + kChunks; });
      if (stopping_) return;
      chunk = next_chunk_++;
    }
    uint64_t count = kChunk;
    if (options_.num_examples != 0)
      count =
          std::min(count, options_.num_examples - std::min(options_.num_examples, chunk * kChunk));
    if (count == 0) return;
    std::vector<Example> examples;
    for (uint64_t i = 0; i < count; ++i)
      examples.push_back(source_.at(options_.first_example + chunk * kChunk + i));
    {
      const std::lock_guard lock(mutex_);
      chunks_[chunk % kChunks] = std::move(examples);
    }
    changed_.notify_all();
  }
}

// The next chunk, in order; empty: it is time to stop.
std::vector<Example> BatchLoader::take_chunk() {
  std::unique_lock lock(mutex_);
  std::vector<Example>& chunk = chunks_[first_chunk_ % kChunks];
  changed_.wait(lock, [&] { return stopping_ || !chunk.empty(); });
  if (stopping_) return {};
  ++first_chunk_;
  changed_.notify_all();
  return std::exchange(chunk, {});
}

// False: it is time to stop.
bool BatchLoader::deliver(Batch batch) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || batches_.size() < kBatches; });
  batches_.push_back(std::move(batch));
  changed_.notify_all();
  return !stopping_;
}

// Makes batches of the chunks.
void BatchLoader::assemble() {
  std::vector<Example> waiting, chunk;
  size_t rows = 0;
  uint64_t taken = 0, batched = 0;
  const size_t multiple = std::max(kRowMultiple, std::bit_floor(options_.rows / 64));
  const auto finish_batch = [&] {
    Batch batch = make_batch(waiting, options_.max_buckets);
    fill_up(batch, multiple);
    batched += waiting.size();
    batch.end_example = options_.first_example + batched;
    waiting.clear();
    rows = 0;
    return deliver(std::move(batch));
  };
  while (options_.num_examples == 0 || taken < options_.num_examples) {
    chunk = take_chunk();
    if (chunk.empty()) return;
    taken += chunk.size();
    for (Example& example : chunk) {
      const size_t more = rows_of(example);
      if (!waiting.empty() && rows + more > options_.rows && !finish_batch()) return;
      rows += more;
      waiting.push_back(std::move(example));
    }
  }
  if (!waiting.empty() && !finish_batch()) return;
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

std::optional<Batch> BatchLoader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !batches_.empty() || ended_ || error_; });
  if (error_) std::rethrow_exception(error_);
  if (batches_.empty()) return std::nullopt;
  Batch batch = std::move(batches_.front());
  batches_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace weft::train
