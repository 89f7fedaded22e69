// For tests: fixtures that reference implementations have left, and passes over models beside them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/checkpoint.h"
#include "models/language_model.h"
#include "text/kv_cache.h"

namespace weft::text {

// Values as they lie one after another in a fixture's file.
struct FixtureReader {
  std::string bytes;
  size_t at = 0;

  explicit FixtureReader(const std::filesystem::path& path) : bytes(read_file(path)) {}
  template <typename T>
  std::vector<T> take(size_t count) {
    std::vector<T> values(count);
    EXPECT_LE(at + count * sizeof(T), bytes.size());
    if (at + count * sizeof(T) > bytes.size()) return values;
    std::memcpy(values.data(), bytes.data() + at, count * sizeof(T));
    at += count * sizeof(T);
    return values;
  }
};

// What a reference makes of a sequence.
struct ReferenceSequence {
  std::vector<models::Token> tokens;
  std::vector<float> logits;  // (tokens, vocab_size)
};
// A file of: i32 sequences, i32 vocab_size; of each, i32 length, its tokens and logits, and
// whatever `rest` takes after them.
template <typename Sequence = ReferenceSequence, typename Rest>
std::vector<Sequence> read_reference(const std::filesystem::path& path, Rest&& rest) {
  FixtureReader reader(path);
  const auto counts = reader.take<int32_t>(2);
  std::vector<Sequence> sequences(static_cast<size_t>(counts[0]));
  for (Sequence& sequence : sequences) {
    const auto length = static_cast<size_t>(reader.take<int32_t>(1)[0]);
    sequence.tokens = reader.take<models::Token>(length);
    sequence.logits = reader.take<float>(length * static_cast<size_t>(counts[1]));
    rest(reader, sequence);
  }
  return sequences;
}

// A model with a cache, and passes over it that ask for every logit.
struct ModelRunner {
  ThreadPool pool;
  std::shared_ptr<const formats::Checkpoint> checkpoint;
  std::unique_ptr<models::LanguageModel> model;
  KvCache cache;
  std::unique_ptr<models::Workspace> workspace;

  explicit ModelRunner(const std::filesystem::path& path, size_t threads = 1,
                       const models::OpenExperts& experts = {})
      : pool(threads),
        checkpoint(formats::open_checkpoint(path)),
        model(models::load_language_model(checkpoint, pool.cores(), {}, models::HeadLoading::kNow,
                                          nullptr, experts)),
        cache({.num_layers = model->config().num_layers,
               .shape = model->kv_shape(),
               .capacity_tokens = 1024}),
        workspace(model->make_workspace()) {}

  struct Piece {
    size_t sequence;
    std::span<const models::Token> tokens;
    bool may_fail = false;
  };
  std::vector<float> pass(const std::vector<Piece>& pieces) {
    std::vector<models::SequenceInput> batch;
    size_t rows = 0;
    for (const Piece& piece : pieces) {
      EXPECT_TRUE(cache.reserve(piece.sequence, piece.tokens.size()));
      batch.push_back({.sequence = piece.sequence,
                       .tokens = piece.tokens,
                       .first_position = cache.length(piece.sequence),
                       .logits = models::LogitsWanted::kAll,
                       .may_fail = piece.may_fail});
      rows += piece.tokens.size();
    }
    std::vector<float> logits(rows * model->config().vocab_size);
    model->forward(batch, cache, logits.data(), *workspace, pool.cores());
    return logits;
  }
  // One sequence in pieces of `chunk` tokens.
  std::vector<float> run(std::span<const models::Token> tokens, size_t chunk) {
    const size_t sequence = cache.create();
    std::vector<float> all;
    for (size_t at = 0; at < tokens.size(); at += chunk) {
      const auto part = pass({{sequence, tokens.subspan(at, std::min(chunk, tokens.size() - at))}});
      all.insert(all.end(), part.begin(), part.end());
    }
    cache.release(sequence);
    return all;
  }
};

}  // namespace weft::text
