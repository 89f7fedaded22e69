#include "text/kv_replay.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/error.h"
#include "text/long_model.h"

namespace weft::text {
namespace {

const LongModel& model() {
  static const LongModel model(WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied");
  return model;
}

std::vector<models::Token> some_tokens(size_t count) {
  std::vector<models::Token> tokens(count);
  std::mt19937 random(5);
  for (models::Token& t : tokens)
    t = static_cast<models::Token>(random() % model().config().vocab_size);
  return tokens;
}

ReplayMethod direct(uint8_t bits) {
  return {.name = fmt::format("direct {}", bits),
          .policy = {.mode = KvMode::kDirect, .widths = {bits, bits}}};
}

ReplayMethod progressive(uint8_t bits) {
  return {.name = fmt::format("progressive {}", bits),
          .policy = {.mode = KvMode::kProgressive, .widths = {bits, bits}}};
}

ReplayMethod foreign(ForeignKv::Format format) {
  return {.name = "foreign", .foreign = ForeignKv{.format = format, .widths = {4, 4}}};
}

TEST(kv_replay, exact_caches_agree_with_themselves_and_narrow_ones_less_the_narrower) {
  const std::vector<models::Token> tokens = some_tokens(640);
  const std::vector<ReplayMethod> methods = {
      direct(16), direct(8), direct(4), direct(2), progressive(2),
      foreign(ForeignKv::Format::kTwoTier)};
  const auto whole = replay_kv(model(), tokens, methods, {.bucket_tokens = 100}, CoreSet());
  EXPECT_EQ(whole[0].buckets.size(), (tokens.size() - 1 + 99) / 100);
  // 16 bit everywhere, but rotated and rotated back: f16's rounding of other numbers (2^-11 each).
  EXPECT_LT(whole[0].total().mean_kl(), 1e-5);
  for (size_t i = 0; i + 1 < 4; ++i) EXPECT_LT(whole[i].total().kl, whole[i + 1].total().kl);
  EXPECT_GT(whole[1].total().kl, 0);
  EXPECT_LT(whole[4].total().kl, whole[3].total().kl) << "progressive has the better beginning";
  EXPECT_LE(whole[4].peak_bytes, whole[3].peak_bytes);
  for (const ReplayResult& r : whole) EXPECT_LE(r.mean_bytes, static_cast<double>(r.peak_bytes));
  // Whatever the passes, it is what token by token would give.
  for (const size_t pass : {size_t{1}, size_t{50}}) {
    const auto pieces = replay_kv(model(), tokens, methods,
                                  {.bucket_tokens = 100, .pass_tokens = pass}, CoreSet());
    for (size_t i = 0; i < methods.size(); ++i)
      EXPECT_EQ(whole[i].total().kl, pieces[i].total().kl) << methods[i].name << ", pass " << pass;
  }
}

TEST(kv_replay, what_a_branch_reads_is_forgotten) {
  const std::vector<models::Token> tokens = some_tokens(640);
  const size_t vocabulary = model().config().vocab_size;
  const auto workspace = model().make_workspace();
  for (const ReplayMethod& method :
       {direct(4), progressive(2), ReplayMethod{.name = "16 bit"},
        foreign(ForeignKv::Format::kTwoTier)}) {
    ReplayCache straight(method, model().config(), model().kv_shape(), 640);
    ReplayCache branching(method, model().config(), model().kv_shape(), 640);
    std::vector<float> a(vocabulary), b(vocabulary);
    const auto read = [&](ReplayCache& cache, size_t from, size_t to, std::vector<float>& out) {
      cache.forward(model(), std::span(tokens).subspan(from, to - from), models::LogitsWanted::kLast,
                    out.data(), *workspace, CoreSet());
    };
    read(straight, 0, 500, a);
    read(branching, 0, 500, b);
    for (int i = 0; i < 2; ++i) {
      branching.branch();
      read(branching, 100, 230, b);  // other tokens, and a cut
      branching.rejoin();
      EXPECT_EQ(branching.length(), 500u);
    }
    read(straight, 500, 640, a);
    read(branching, 500, 640, b);
    EXPECT_EQ(a, b) << method.name;
  }
}

TEST(kv_replay, bad_methods_are_named) {
  const auto message = [](ReplayMethod method) {
    method.name = "mine";
    try {
      ReplayCache(method, model().config(), model().kv_shape(), 600);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message(direct(3)).find("'mine'"), std::string::npos);
  ReplayMethod layers = direct(4);
  layers.policy.layer_widths.resize(1);
  EXPECT_NE(message(layers).find("of 1 layers"), std::string::npos);
  ReplayMethod poor = progressive(8);
  poor.policy.budget_bytes = model().kv_shape().page_bytes(kernels::KvFormat::kF16) *
                             model().config().num_layers * 13;
  EXPECT_NE(message(poor).find("tokens"), std::string::npos) << message(poor);
  EXPECT_EQ(message(progressive(4)), "");
}

}  // namespace
}  // namespace weft::text
