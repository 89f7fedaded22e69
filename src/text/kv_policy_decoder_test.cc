// Narrow caches keep the decoder's promises: what a request answers depends on the request alone,
// token by token, under every policy.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "base/error.h"
#include "text/long_model.h"
#include "text/test_model.h"

namespace weft::text {
namespace {

constexpr size_t kContext = 512;

TextModel load(const KvPolicyOptions& kv = {}, size_t context = kContext) {
  return load_random_model({.context = context, .kv = kv});
}

size_t block_bytes() {
  static const size_t bytes = load().memory_plan().kv_bytes / (kContext / kernels::kPageTokens);
  return bytes;
}

KvPolicyOptions direct(uint8_t k, uint8_t v) {
  return {.mode = KvMode::kDirect, .widths = {k, v}};
}

KvPolicyOptions progressive(size_t blocks) {
  return {.mode = KvMode::kProgressive, .widths = {2, 2}, .budget_bytes = blocks * block_bytes()};
}

std::map<std::string, KvPolicyOptions> policies() {
  KvPolicyOptions unrotated = direct(4, 4);
  unrotated.transform = kernels::KvTransform::kNone;
  return {{"8", direct(8, 8)},           {"k8v4", direct(8, 4)},
          {"2", direct(2, 2)},           {"k16v8", direct(16, 8)},
          {"4, unrotated", unrotated},   {"progressive", progressive(14)}};
}

std::vector<DecodeRequest> requests() {
  std::vector<DecodeRequest> out;
  const size_t lengths[] = {300, 150, 420, 33};
  for (size_t i = 0; i < std::size(lengths); ++i) {
    DecodeRequest& request = out.emplace_back();
    for (size_t t = 0; t < lengths[i]; ++t)
      request.prompt.push_back(static_cast<Token>((t * t * 7 + t * 3 + i * 11) % 200));
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.1f;
    request.sampling.seed = 5 + i;
    request.random_stream = i;
    request.max_tokens = 40 + i;
  }
  return out;
}

using Answers = AnswerTokens;

Answers run(const TextModel& model, const std::vector<DecodeRequest>& requests, size_t chunk,
            bool keep_prefixes = false) {
  const auto decoder = model.make_decoder(
      CoreSet(), {.capacity_tokens = 3 * kContext, .keep_prefixes = keep_prefixes});
  Answers answers = run_all(*decoder, requests, chunk);
  EXPECT_EQ(decoder->kv_usage().block_bytes, 0u);
  return answers;
}

TEST(kv_policy, batches_and_chunks_change_no_token) {
  const Answers plain = run(load(), requests(), 512);
  for (const auto& [name, kv] : policies()) {
    SCOPED_TRACE(name);
    const TextModel model = load(kv);
    ASSERT_EQ(model.context_length(), kContext);
    Answers alone;
    for (size_t i = 0; i < requests().size(); ++i) alone[i] = run(model, {requests()[i]}, 512)[0];
    EXPECT_EQ(run(model, requests(), 512), alone);
    EXPECT_EQ(run(model, requests(), 37), alone) << "chunks of 37";
    EXPECT_EQ(run(model, {requests()[2]}, 1)[0], alone[2]) << "token by token";
    EXPECT_EQ(run(model, requests(), 100, true), alone) << "prefixes kept";
    if (name == "2") {
      EXPECT_NE(alone, plain) << "2 bit went unnoticed";
    }
  }
}

TEST(kv_policy, an_interrupted_request_goes_on_as_if_nothing_had_happened) {
  for (const auto& [name, kv] : policies()) {
    SCOPED_TRACE(name);
    const TextModel model = load(kv);
    for (const bool keep_prefixes : {false, true}) {
      const DecodeRequest request = requests()[0];
      const std::vector<Token> whole = run(model, {request}, 512)[0];
      const auto decoder = model.make_decoder(CoreSet(), {.keep_prefixes = keep_prefixes});
      DecodeRequest rest = request;
      std::vector<Token> got;
      while (got.size() < request.max_tokens) {
        decoder->start(9, rest);
        for (int i = 0; i < 13 && got.size() < request.max_tokens;) {
          for (const DecodedToken& token : decoder->step({})) {
            got.push_back(token.sampled.token);
            rest.prompt.push_back(got.back());
            ++i;
          }
        }
        rest.max_tokens = request.max_tokens - got.size();
        decoder->finish(9);
      }
      EXPECT_EQ(got, whole) << "keep_prefixes " << keep_prefixes;
    }
  }
}

TEST(kv_policy, a_request_that_moves_between_decoders_answers_the_same) {
  for (const auto& [name, kv] : policies()) {
    SCOPED_TRACE(name);
    const TextModel model = load(kv);
    const std::vector<Token> whole = run(model, {requests()[2]}, 512)[0];
    const auto pool = model.make_pool(2 * kContext);
    const std::unique_ptr<PlainDecoder> decoders[2] = {
        model.make_decoder(CoreSet(), {.pool = pool}), model.make_decoder(CoreSet(), {.pool = pool})};
    size_t at = 0;
    decoders[at]->start(1, requests()[2]);
    std::vector<Token> got;
    for (size_t step = 1; got.size() < whole.size(); ++step) {
      for (const DecodedToken& token : decoders[at]->step({.max_prompt_tokens = 50}))
        got.push_back(token.sampled.token);
      if (step % 3 != 0) continue;
      decoders[1 - at]->attach(decoders[at]->detach(1));
      at = 1 - at;
    }
    EXPECT_EQ(got, whole);
  }
}

TEST(kv_policy, sixteen_bit_everywhere_is_the_plain_cache) {
  EXPECT_EQ(load(direct(16, 16)).kv_policy(), nullptr);
  const Answers plain = run(load(), requests(), 512);
  KvPolicyOptions never_full = progressive(100);
  never_full.transform = kernels::KvTransform::kNone;
  EXPECT_EQ(run(load(never_full), requests(), 512), plain);
}

KvPolicyOptions pressure(size_t blocks) {
  return {.mode = KvMode::kPressure, .widths = {2, 2}, .budget_bytes = blocks * block_bytes()};
}

TEST(kv_policy, without_pressure_it_is_the_plain_cache) {
  KvPolicyOptions ample = pressure(0);
  ample.transform = kernels::KvTransform::kNone;
  const TextModel model = load(ample);
  EXPECT_FALSE(model.kv_limits_context());
  EXPECT_EQ(run(model, requests(), 100), run(load(), requests(), 512));
}

// Three requests of 15 to 16 blocks in 16 bit, where 40 are there: all end, and within them.
TEST(kv_policy, under_pressure_all_requests_end_in_the_memory_that_is_there) {
  const TextModel model = load(pressure(40));
  EXPECT_EQ(model.memory_plan().kv_bytes, 40 * block_bytes());
  const auto decoder = model.make_decoder(CoreSet());
  std::map<RequestId, size_t> sampled;
  for (RequestId id = 0; id < 3; ++id) {
    DecodeRequest request = requests()[0];
    while (request.prompt.size() < 430 + 10 * id)
      request.prompt.push_back(static_cast<Token>((request.prompt.size() * 7 + id) % 200));
    request.max_tokens = 50;
    request.prefix_scope = id;  // nobody shares pages
    decoder->start(id, request);
  }
  bool narrowed = false;
  for (size_t ended = 0; ended < 3;) {
    for (const DecodedToken& token : decoder->step({.max_prompt_tokens = 64})) {
      EXPECT_FALSE(token.error);
      ++sampled[token.request];
      ended += token.last;
    }
    EXPECT_LE(decoder->kv_usage().block_bytes, 40 * block_bytes());
    narrowed |= decoder->kv_usage().meta_bytes != 0;
  }
  EXPECT_TRUE(narrowed);
  for (RequestId id = 0; id < 3; ++id) {
    EXPECT_EQ(sampled[id], 50u) << id;
    decoder->finish(id);
  }
  EXPECT_EQ(decoder->kv_usage().block_bytes, 0u);
}

TEST(kv_policy, under_pressure_a_request_alone_gets_as_long_as_its_narrowest_widths_allow) {
  const auto model =
      std::make_shared<LongModel>(WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied");
  const size_t capacity = 20 * kernels::kPageTokens;
  const auto decoder = make_plain_decoder(
      model,
      {.capacity_tokens = capacity,
       .kv_policy = std::make_shared<KvPolicy>(
           KvPolicyOptions{.mode = KvMode::kPressure, .widths = {2, 2}},
           model->config().num_layers, model->kv_shape())},
      CoreSet());
  EXPECT_GT(decoder->context_length(), capacity * 5 / 4);
  DecodeRequest request{.prompt = std::vector<Token>(300, 5)};
  request.max_tokens = decoder->context_length() - request.prompt.size();
  size_t count = 0;
  decoder->start(0, request);
  for (bool last = false; !last;)
    for (const DecodedToken& token : decoder->step({})) {
      last = token.last;
      ++count;
    }
  EXPECT_EQ(count, request.max_tokens);
}

KvPolicyOptions twelve_blocks_of_8_bit() {
  KvPolicyOptions kv = progressive(12);
  kv.widths = {8, 8};
  return kv;
}

TEST(kv_policy, the_context_is_what_the_budget_holds) {
  const TextModel model = load(twelve_blocks_of_8_bit());
  EXPECT_LT(model.context_length(), kContext);
  EXPECT_GE(model.context_length(), 12 * kernels::kPageTokens) << "as much as in 16 bit";
  EXPECT_EQ(model.memory_plan().kv_bytes, 12 * block_bytes());
  const auto decoder = model.make_decoder(CoreSet());
  EXPECT_EQ(decoder->context_length(), model.context_length());
  // The longest prompt and answer are held to the end, and the pool has not a byte more.
  DecodeRequest request = requests()[0];
  request.max_tokens = SIZE_MAX;
  while (request.prompt.size() + 30 < model.context_length()) request.prompt.push_back(7);
  decoder->start(0, request);
  for (bool last = false; !last;)
    for (const DecodedToken& token : decoder->step({})) last = token.last;
  EXPECT_LE(decoder->kv_usage().block_bytes, 12 * block_bytes());
  EXPECT_GT(decoder->kv_usage().code_bytes[1], 0u);
}

// What would have been cut short in the middle is refused at the start, by its numbers.
TEST(kv_policy, an_answer_that_the_budget_cannot_hold_is_refused) {
  const TextModel model = load(twelve_blocks_of_8_bit());
  ASSERT_TRUE(model.kv_limits_context());
  const auto decoder = model.make_decoder(CoreSet());
  DecodeRequest request = requests()[0];
  const size_t room = model.context_length() - request.prompt.size();
  request.max_tokens = room;
  decoder->start(0, request);
  decoder->finish(0);
  // Interrupted: its answer so far is part of the prompt, and of max_tokens.
  request.prompt.resize(request.prompt.size() + 5, 7);
  request.num_generated = 5;
  decoder->start(0, request);
  decoder->finish(0);
  request.max_tokens = room + 1;
  try {
    decoder->start(0, request);
    FAIL() << "started";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
    EXPECT_NE(std::string(e.what()).find(fmt::format("room for {}", room)), std::string::npos)
        << e.what();
  }
  // Without a limit, or where the context is as long as was asked for, the context ends the answer.
  request.max_tokens = SIZE_MAX;
  decoder->start(0, request);
  const TextModel whole = load(direct(8, 8));
  EXPECT_FALSE(whole.kv_limits_context());
  request.max_tokens = 2 * kContext;
  whole.make_decoder(CoreSet())->start(0, request);
}

// ---- widths of a request's own

std::shared_ptr<const KvPolicy> own_widths(const TextModel& model, uint8_t k, uint8_t v) {
  return std::make_shared<const KvPolicy>(direct(k, v), model.model().config().num_layers,
                                          model.model().kv_shape());
}

TEST(kv_policy, a_requests_own_widths_are_those_of_a_decoder_that_has_them) {
  const std::vector<DecodeRequest> all = requests();
  const TextModel plain = load(), at8 = load(direct(8, 8)), at2 = load(direct(2, 2));
  const Answers exact = run(plain, all, 512), in8 = run(at8, all, 512), in2 = run(at2, all, 512);
  ASSERT_NE(in2, exact);
  // Side by side in one batch: 16, 8, 2, 16 bit, and the answers are those of each alone.
  std::vector<DecodeRequest> mixed = all;
  mixed[1].kv = own_widths(plain, 8, 8);
  mixed[2].kv = own_widths(plain, 2, 2);
  for (const bool keep_prefixes : {false, true}) {
    const Answers got = run(plain, mixed, 100, keep_prefixes);
    EXPECT_EQ(got.at(0), exact.at(0));
    EXPECT_EQ(got.at(1), in8.at(1));
    EXPECT_EQ(got.at(2), in2.at(2));
    EXPECT_EQ(got.at(3), exact.at(3));
  }
  // Over a decoder that is narrow itself.
  mixed = all;
  mixed[2].kv = own_widths(at8, 2, 2);
  const Answers got = run(at8, mixed, 100);
  EXPECT_EQ(got.at(0), in8.at(0));
  EXPECT_EQ(got.at(2), in2.at(2));
}

// The same prompt three times: those with widths of their own neither take nor leave pages, which other
// widths would spoil.
TEST(kv_policy, own_widths_leave_kept_prefixes_alone) {
  const TextModel model = load();
  const auto decoder = model.make_decoder(CoreSet(), {.capacity_tokens = 3 * kContext});
  DecodeRequest request = requests()[2];
  const auto answer = [&](const DecodeRequest& r) { return run_all(*decoder, {r}, 512).at(0); };
  DecodeRequest narrow = request;
  narrow.kv = own_widths(model, 2, 2);
  const std::vector<Token> first_narrow = answer(narrow), exact = answer(request);
  EXPECT_EQ(answer(narrow), first_narrow);
  EXPECT_EQ(answer(request), exact);
  EXPECT_EQ(exact, run(model, {request}, 512).at(0));
  decoder->start(7, narrow);
  EXPECT_EQ(decoder->reused_prompt_tokens(7), 0u);
  decoder->start(8, request);
  EXPECT_GT(decoder->reused_prompt_tokens(8), 0u);
  EXPECT_LT(decoder->room_for(480, narrow.kv.get()), decoder->room_for(480, nullptr));
}

TEST(kv_policy, a_model_offers_what_it_has_room_for) {
  TextModel model = load();
  const auto refused = [&](std::optional<size_t> k, std::optional<size_t> v) {
    try {
      model.choose_kv(k, v);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(model.choose_kv({}, {}), nullptr);
  EXPECT_NE(refused(8, 8).find("as this server was started"), std::string::npos);
  model.offer_kv_widths();
  EXPECT_EQ(model.choose_kv(16, 16), nullptr);
  EXPECT_EQ(model.choose_kv(8, 4)->options().widths, (KvWidths{8, 4}));
  EXPECT_EQ(model.choose_kv({}, 4)->options().widths, (KvWidths{16, 4}));
  EXPECT_NE(refused(3, 8).find("3 bits"), std::string::npos);
  model = load(direct(8, 4));
  model.offer_kv_widths();
  EXPECT_EQ(model.choose_kv(8, {}), nullptr);
  EXPECT_EQ(model.choose_kv(2, 4)->options().widths, (KvWidths{2, 4}));
  EXPECT_NE(refused(16, 4).find("8 and 4 at most"), std::string::npos);
  EXPECT_NE(refused(8, 8).find("8 and 4 at most"), std::string::npos);
  for (const KvPolicyOptions& kv : {progressive(14), pressure(40)}) {
    model = load(kv);
    model.offer_kv_widths();
    EXPECT_NE(refused(4, 4), "");
  }
}

std::string message(const KvPolicyOptions& kv) {
  try {
    load(kv);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
    return e.what();
  }
  return "";
}

TEST(kv_policy, what_a_model_cannot_hold_is_an_error_before_it_is_loaded) {
  KvPolicyOptions kv = twelve_blocks_of_8_bit();
  kv.max_length = kContext;
  EXPECT_NE(message(kv).find("sequences of 512 were asked for"), std::string::npos) << message(kv);
  kv.max_length = size_t{1} << 40;
  EXPECT_NE(message(kv).find("the model's limit is"), std::string::npos) << message(kv);
  EXPECT_NE(message(progressive(3)).find("too small"), std::string::npos);
}

}  // namespace
}  // namespace weft::text
