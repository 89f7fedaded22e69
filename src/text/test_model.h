// For the tests of this room: models that are at hand, and many requests run to their ends.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/random_model.h"
#include "text/text_model.h"

namespace weft::text {

// A tiny model of tests/data/parity, without a tokenizer.
inline std::shared_ptr<const models::LanguageModel> load_parity_model(
    const std::string& name, models::HeadLoading head = models::HeadLoading::kNow) {
  return models::load_language_model(
      formats::open_checkpoint(WEFT_SOURCE_DIR "/tests/data/parity/" + name), CoreSet(), {}, head);
}

// A random model of a shape that formats/random_model.h knows, with its tokenizer.
inline TextModel load_random_model(const TextModelOptions& options, const std::string& shape = "tiny",
                                   uint64_t seed = 3) {
  const auto path = std::filesystem::path(testing::TempDir()) /
                    fmt::format("weft_{}_{}_{}.gguf", shape, seed, getpid());
  formats::write_random_model(path, shape, formats::quant_mix("q8_0"), seed, CoreSet());
  TextModel model = TextModel::load(path, options, CoreSet());
  std::filesystem::remove(path);  // it stays mapped
  return model;
}

using AnswerTokens = std::map<RequestId, std::vector<Token>>;

// All at once, stepped until all are done; request i has the id i.
inline AnswerTokens run_all(Decoder& decoder, const std::vector<DecodeRequest>& requests, size_t chunk) {
  for (size_t i = 0; i < requests.size(); ++i) decoder.start(i, requests[i]);
  AnswerTokens answers;
  for (size_t done = 0; done < requests.size();) {
    std::vector<RequestId> ended;
    for (const DecodedToken& token : decoder.step({.max_prompt_tokens = chunk})) {
      EXPECT_FALSE(token.error);
      answers[token.request].push_back(token.sampled.token);
      if (token.last) ended.push_back(token.request);
    }
    for (const RequestId id : ended) decoder.finish(id);
    done += ended.size();
  }
  return answers;
}

}  // namespace weft::text
