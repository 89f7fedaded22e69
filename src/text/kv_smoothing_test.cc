#include "text/kv_smoothing.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "text/long_model.h"
#include "text/test_model.h"

namespace weft::text {
namespace {

constexpr const char* kModel = WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied";

std::vector<models::Token> some_tokens(const models::LanguageModel& model, size_t count) {
  std::vector<models::Token> tokens;
  for (size_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<models::Token>(
        uniform(3, 1, static_cast<uint32_t>(i)) * static_cast<double>(model.config().vocab_size)));
  return tokens;
}

TEST(kv_smoothing, factors_are_powers_of_the_maxima_within_bounds) {
  const std::vector<float> maxima = {0.0f, 1e-9f, 0.25f, 1.0f, 16.0f, 1e9f};
  const std::vector<float> half = smoothing_factors(maxima, 0.5);
  EXPECT_EQ(half[0], 1.0f) << "a feature that is always 0 stays so";
  EXPECT_FLOAT_EQ(half[1], 1e-4f);
  EXPECT_FLOAT_EQ(half[2], 0.5f);
  EXPECT_FLOAT_EQ(half[4], 4.0f);
  EXPECT_FLOAT_EQ(half[5], 1e4f);
  EXPECT_EQ(smoothing_factors(maxima, 0), std::vector<float>(maxima.size(), 1.0f));
}

TEST(kv_smoothing, the_best_of_the_grid_is_not_worse_than_none) {
  const LongModel model(kModel);
  const auto tokens = some_tokens(model, 200);
  const auto layers = search_smoothing(model, tokens, {.grid = 5}, CoreSet());
  ASSERT_EQ(layers.size(), model.config().num_layers);
  for (const KvSmoothing& s : layers) {
    EXPECT_GT(s.plain_error, 0);
    EXPECT_LE(s.error, s.plain_error);
    EXPECT_EQ(s.factors.size(), model.kv_shape().num_kv_heads * model.kv_shape().head_dim);
    for (const float factor : s.factors) EXPECT_GT(factor, 0);
  }
  // The same on one core and two, and with a text that ends within a page.
  ThreadPool pool(2);
  const auto again = search_smoothing(model, std::span(tokens).first(199), {.grid = 5}, pool.cores());
  for (size_t i = 0; i < layers.size(); ++i) EXPECT_EQ(layers[i].factors, again[i].factors);
  EXPECT_THROW(search_smoothing(model, std::span(tokens).first(31), {}, CoreSet()), Error);
}

// k / l . q l = k . q: in 16 bit nothing changes but by rounding. f16 keys are off by 2^-11 of
// themselves at most, and so are scores of a few units, probabilities and what they weigh.
TEST(kv_smoothing, changes_logits_by_rounding_alone) {
  const LongModel model(kModel);
  const auto tokens = some_tokens(model, 300);
  const size_t layers = model.config().num_layers, vocab_size = model.config().vocab_size;
  std::vector<std::vector<float>> factors(layers);
  for (size_t layer = 0; layer < layers; ++layer)
    for (size_t i = 0; i < model.kv_shape().num_kv_heads * model.kv_shape().head_dim; ++i)
      factors[layer].push_back(
          std::exp2(static_cast<float>(4 * uniform(9, layer, static_cast<uint32_t>(i)) - 2)));
  const auto logits = [&](const KvPolicyOptions& options) {
    KvCache cache({.num_layers = layers,
                   .shape = model.kv_shape(),
                   .capacity_tokens = 320,
                   .policy = options.mode == KvMode::kPlain
                                 ? nullptr
                                 : std::make_shared<KvPolicy>(options, layers, model.kv_shape())});
    const auto workspace = model.make_workspace();
    std::vector<float> out(vocab_size);
    const SequenceId sequence = cache.create();
    EXPECT_TRUE(cache.reserve(sequence, tokens.size()));
    const models::SequenceInput input{.sequence = sequence, .tokens = tokens, .first_position = 0};
    model.forward({&input, 1}, cache, out.data(), *workspace, CoreSet());
    return out;
  };
  const std::vector<float> plain = logits({});
  float largest = 0;
  for (const float x : plain) largest = std::max(largest, std::fabs(x));
  using kernels::KvTransform;
  for (const KvTransform transform : {KvTransform::kSmooth, KvTransform::kSmoothHadamard}) {
    // A budget that is never full: 16 bit, transformed.
    KvPolicyOptions options{.mode = KvMode::kProgressive,
                            .widths = {4, 4},
                            .budget_bytes = size_t{1} << 30,
                            .max_length = 320,
                            .transform = transform};
    options.smoothing = factors;
    const std::vector<float> got = logits(options);
    for (size_t i = 0; i < vocab_size; ++i) EXPECT_NEAR(got[i], plain[i], largest / 256) << i;
    EXPECT_NE(got, plain);
  }
}

TEST(kv_smoothing, factors_that_are_missing_or_wrong_are_errors) {
  const kernels::KvShape shape{.num_kv_heads = 2, .head_dim = 16};
  const auto message = [&](std::vector<std::vector<float>> factors) {
    try {
      KvPolicyOptions options{.mode = KvMode::kDirect,
                              .widths = {4, 4},
                              .transform = kernels::KvTransform::kSmooth};
      options.smoothing = std::move(factors);
      KvPolicy(options, 2, shape);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      return std::string(e.what());
    }
    return std::string();
  };
  const std::vector<float> good(32, 1.5f);
  EXPECT_EQ(message({good, good}), "");
  EXPECT_NE(message({}).find("weft calibrate"), std::string::npos);
  EXPECT_NE(message({good}).find("1 layers"), std::string::npos);
  EXPECT_NE(message({good, std::vector<float>(16, 1.0f)}).find("layer 1"), std::string::npos);
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    std::vector<float> spoilt = good;
    spoilt[3] = bad;
    EXPECT_NE(message({good, spoilt}).find("layer 1"), std::string::npos) << bad;
  }
}

}  // namespace
}  // namespace weft::text
