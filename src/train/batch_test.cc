#include "train/batch.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"

namespace weft::train {
namespace {

// Example i has 2 to 90 tokens that tell which example it is and where they stand.
class Numbered final : public ExampleSource {
 public:
  Example at(uint64_t index) const override {
    if (index == fails_at) fail(ErrorKind::kInvalidInput, "example {} is bad", index);
    Example example;
    const auto length = 2 + static_cast<size_t>(uniform(7, index, 0) * 89);
    for (size_t i = 0; i < length; ++i) {
      example.tokens.push_back(static_cast<int32_t>(index * 100 + i));
      example.learn.push_back(i % 2);
    }
    return example;
  }
  uint64_t size() const override { return 0; }
  uint64_t fails_at = UINT64_MAX;
};

std::vector<Example> examples(uint64_t first, uint64_t count) {
  std::vector<Example> out;
  for (uint64_t i = 0; i < count; ++i) out.push_back(Numbered().at(first + i));
  return out;
}

// Every token of every example once, at its position, with its successor as target where it is
// learnt.
void expect_holds(const Batch& batch, uint64_t first, uint64_t count) {
  std::set<uint64_t> seen;
  size_t row = 0, wanted = 0, tokens = 0;
  for (const Bucket& bucket : batch.buckets) {
    EXPECT_EQ(bucket.length % kRowMultiple, 0U);
    for (size_t i = 0; i < bucket.num_sequences; ++i) {
      const auto id = static_cast<uint64_t>(batch.tokens[row]) / 100;
      EXPECT_TRUE(seen.insert(id).second && id >= first && id < first + count) << id;
      const Example example = Numbered().at(id);
      for (size_t j = 0; j < bucket.length; ++j, ++row) {
        const bool is_token = j + 1 < example.tokens.size();
        EXPECT_EQ(batch.is_token[row], is_token ? 1 : 0);
        EXPECT_EQ(batch.positions[row], static_cast<int32_t>(j));
        EXPECT_EQ(batch.tokens[row], is_token ? example.tokens[j] : 0);
        tokens += is_token ? 1 : 0;
        if (!is_token || example.learn[j + 1] == 0) continue;
        ASSERT_LT(wanted, batch.wanted.size());
        EXPECT_EQ(batch.wanted[wanted], static_cast<int64_t>(row));
        EXPECT_EQ(batch.targets[wanted], example.tokens[j + 1]);
        ++wanted;
      }
    }
  }
  EXPECT_EQ(row, batch.num_rows());
  EXPECT_EQ(seen.size(), count);
  EXPECT_EQ(wanted, batch.wanted.size());
  EXPECT_EQ(tokens, batch.num_tokens);
}

TEST(batch, holds_every_example_once) {
  for (const size_t buckets : {1, 2, 8, 100})
    for (const uint64_t count : {1, 2, 60}) {
      const Batch batch = make_batch(examples(3, count), buckets);
      EXPECT_LE(batch.buckets.size(), buckets);
      expect_holds(batch, 3, count);
    }
}

TEST(batch, more_buckets_fill_up_less) {
  const auto some = examples(0, 200);
  size_t before = SIZE_MAX;
  for (const size_t buckets : {1, 2, 3, 5, 8, 20}) {
    const size_t rows = make_batch(some, buckets).num_rows();
    EXPECT_LT(rows, before);
    before = rows;
  }
  size_t least = 0;
  for (const Example& e : some) least += (e.tokens.size() - 1 + 7) / 8 * 8;
  EXPECT_EQ(before, least);  // lengths 8 to 96: twelve at most
}

TEST(batch, the_best_cut_is_found) {
  // Lengths 8 (nine times), 16 and 64: of the two cuts in two, 9 * 8 + 2 * 64 = 200 beats
  // 10 * 16 + 64 = 224.
  std::vector<Example> some;
  for (int i = 0; i < 9; ++i) some.push_back({std::vector<int32_t>(9), std::vector<uint8_t>(9)});
  some.push_back({std::vector<int32_t>(17), std::vector<uint8_t>(17)});
  some.push_back({std::vector<int32_t>(65), std::vector<uint8_t>(65)});
  EXPECT_EQ(make_batch(some, 2).num_rows(), 200U);
}

TEST(batch, filling_up_adds_rows_without_a_token) {
  for (const size_t multiple : {8, 64, 256}) {
    const Batch before = make_batch(examples(0, 3), 2);
    Batch batch = before;
    fill_up(batch, multiple);
    EXPECT_EQ(batch.num_rows(), (before.num_rows() + multiple - 1) / multiple * multiple);
    size_t rows = 0;
    for (const Bucket& bucket : batch.buckets) rows += bucket.num_sequences * bucket.length;
    EXPECT_EQ(rows, batch.num_rows());
    EXPECT_EQ(batch.positions.size(), rows);
    EXPECT_EQ(std::accumulate(batch.is_token.begin(), batch.is_token.end(), size_t{0}),
              before.num_tokens);
    EXPECT_EQ(batch.wanted, before.wanted);
    EXPECT_EQ(batch.longest, before.longest);
    for (size_t row = before.num_rows(); row < rows; ++row)
      EXPECT_LT(static_cast<size_t>(batch.positions[row]), batch.longest);
  }
}

// So that products of few sizes are asked for.
TEST(batch_loader, batches_have_a_multiple_of_a_64th_of_the_rows) {
  const Numbered source;
  BatchLoader loader(source, {.rows = 2048 + 100});
  for (int i = 0; i < 20; ++i) EXPECT_EQ(loader.next()->num_rows() % 32, 0U);
}

TEST(batch_loader, order_and_resuming_do_not_depend_on_threads) {
  const Numbered source;
  std::vector<Batch> first;
  for (const size_t threads : {1, 3}) {
    BatchLoader loader(source, {.rows = 256, .max_buckets = 4, .num_threads = threads});
    uint64_t begin = 0;
    for (size_t i = 0; i < 40; ++i) {
      const auto batch = loader.next();
      ASSERT_TRUE(batch);
      expect_holds(*batch, begin, batch->end_example - begin);
      begin = batch->end_example;
      if (threads == 1)
        first.push_back(*batch);
      else
        EXPECT_EQ(batch->tokens, first[i].tokens);
    }
  }
  BatchLoader later(source, {.rows = 256, .max_buckets = 4, .first_example = first[9].end_example});
  for (size_t i = 10; i < 40; ++i) EXPECT_EQ(later.next()->tokens, first[i].tokens);
}

TEST(batch_loader, ends_where_it_is_told_to) {
  const Numbered source;
  for (const uint64_t count : {1, 31, 32, 33, 100}) {
    BatchLoader loader(source, {.rows = 512, .num_threads = 2, .num_examples = count});
    uint64_t end = 0;
    while (const auto batch = loader.next()) end = batch->end_example;
    EXPECT_EQ(end, count);
  }
}

TEST(batch_loader, an_example_longer_than_the_rows_comes_alone) {
  const Numbered source;
  BatchLoader loader(source, {.rows = 8, .num_examples = 20});
  size_t batches = 0;
  while (const auto batch = loader.next()) ++batches;
  EXPECT_GE(batches, 15U);
}

TEST(batch_loader, what_a_source_throws_arrives) {
  Numbered source;
  source.fails_at = 50;
  BatchLoader loader(source, {.rows = 128, .num_threads = 2});
  EXPECT_THROW(while (loader.next()){}, Error);
}

TEST(batch_loader, may_be_dropped_at_any_time) {
  const Numbered source;
  for (int i = 0; i < 20; ++i) {
    BatchLoader loader(source, {.rows = 128, .num_threads = 2});
    if (i % 2 == 1) loader.next();
  }
}

}  // namespace
}  // namespace weft::train
