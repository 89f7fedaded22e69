// Examples as one pass takes them. Sequences are laid end to end in rows; those of similar length
// form a bucket and are filled up to the same length at their ends, so that attention is computed
// bucket by bucket, within each sequence alone. Behind its last token a sequence has no targets,
// and being causal it never looks at what fills it up: the result is that of each sequence by
// itself.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "train/example.h"

namespace weft::train {

struct Bucket {
  size_t num_sequences = 0;
  size_t length = 0;  // rows of each
};

struct Batch {
  std::vector<Bucket> buckets;     // their rows follow each other
  std::vector<int32_t> tokens;     // (rows); 0 where a sequence is filled up
  std::vector<int32_t> positions;  // (rows) in the sequence
  std::vector<uint8_t> is_token;   // (rows) 0 where a sequence is filled up
  std::vector<int64_t> wanted;     // rows with a target
  std::vector<int64_t> targets;    // of those: the token that follows
  size_t num_tokens = 0;           // rows that hold one
  size_t longest = 0;              // sequence
  uint64_t end_example = 0;        // index of the first example that comes after

  size_t num_rows() const { return tokens.size(); }
};

constexpr size_t kRowMultiple = 8;  // lengths of buckets are multiples of it

// In at most `max_buckets`, chosen so that the fewest rows are filled up.
Batch make_batch(std::span<const Example> examples, size_t max_buckets);

// Fills up the batch itself, by a last bucket of one sequence without a token, to a multiple of
// `multiple` rows (of kRowMultiple). A library that compiles a kernel for each shape of a product
// then meets few shapes.
void fill_up(Batch& batch, size_t multiple);

// Makes batches of consecutive examples ahead of time, on threads of its own: as many examples each
// as fit in `rows` before filling up (one at least). Batches have a multiple of 1/64 of `rows`, or
// nearly so (a power of two).
class BatchLoader {
 public:
  struct Options {
    size_t rows = 16384;
    size_t max_buckets = 8;
    size_t num_threads = 1;
    uint64_t first_example = 0;
    uint64_t num_examples = 0;  // batches end with them; 0: never
  };
  BatchLoader(const ExampleSource& source, const Options& options);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // Nothing after the last. Rethrows what the source threw.
  std::optional<Batch> next();

 private:
  void produce();
  std::vector<Example> take_chunk();
  bool deliver(Batch batch);
  void assemble();
  void stop_with(std::exception_ptr error);

  static constexpr size_t kChunk = 32, kChunks = 64, kBatches = 3;
  const ExampleSource& source_;
  const Options options_;
  std::mutex mutex_;  // guards all below but the threads
  std::condition_variable changed_;
  std::vector<std::vector<Example>> chunks_{kChunks};  // a ring; empty: not made yet
  uint64_t next_chunk_ = 0, first_chunk_ = 0;          // to make; not taken yet
  std::deque<Batch> batches_;
  bool ended_ = false, stopping_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

}  // namespace weft::train
