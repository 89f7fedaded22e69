// What a request answers depends on the request alone: properties of the plain decoder on tiny
// random models, token by token.
#include "text/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "base/error.h"
#include "text/test_model.h"

namespace weft::text {
namespace {

// Five requests, greedy and sampled, of lengths around a page of 32 tokens.
std::vector<DecodeRequest> requests() {
  std::vector<DecodeRequest> out;
  const size_t lengths[] = {1, 31, 32, 33, 7};
  for (size_t i = 0; i < std::size(lengths); ++i) {
    DecodeRequest& request = out.emplace_back();
    for (size_t t = 0; t < lengths[i]; ++t)
      request.prompt.push_back(static_cast<Token>((t * t * 7 + t * 3 + i * 11) % 96));
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.2f;
    request.sampling.seed = 5 + i;
    request.sampling.frequency_penalty = i == 3 ? 0.5f : 0.0f;
    request.random_stream = i;
    request.max_tokens = 20 + i;
  }
  return out;
}

size_t full_pages(size_t tokens) { return tokens / kernels::kPageTokens * kernels::kPageTokens; }

using Answers = std::map<RequestId, std::vector<Token>>;

// Starts the requests one step after another and steps until all are done.
Answers run(const std::shared_ptr<const models::LanguageModel>& model,
            const std::vector<DecodeRequest>& requests, size_t chunk, size_t threads = 1,
            bool keep_prefixes = false) {
  ThreadPool pool(threads);
  const auto decoder = make_plain_decoder(
      model, {.capacity_tokens = 1024, .keep_prefixes = keep_prefixes}, pool.cores());
  Answers answers;
  size_t started = 0, done = 0;
  while (done < requests.size()) {
    if (started < requests.size()) {
      decoder->start(started, requests[started]);
      ++started;
    }
    std::vector<RequestId> ended;
    for (const DecodedToken& token : decoder->step({.max_prompt_tokens = chunk})) {
      EXPECT_FALSE(token.error);
      answers[token.request].push_back(token.sampled.token);
      if (token.last) ended.push_back(token.request);
    }
    for (const RequestId id : ended) decoder->finish(id);
    done += ended.size();
  }
  return answers;
}

TEST(plain_decoder, a_batch_equals_each_request_alone) {
  for (const char* name : {"llama3_tied", "mistral", "qwen3"}) {
    const auto model = load_parity_model(name);
    const auto all = requests();
    Answers alone;
    for (size_t i = 0; i < all.size(); ++i) alone[i] = run(model, {all[i]}, 512)[0];
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(alone[i].size(), all[i].max_tokens);
    for (const size_t threads : {1, 2, 3}) {
      EXPECT_EQ(run(model, all, 512, threads), alone) << name << ", " << threads << " threads";
      EXPECT_EQ(run(model, all, 5, threads), alone) << name << ", chunks of 5";
    }
    EXPECT_EQ(run(model, all, 1), alone) << name << ", token by token";
  }
}

TEST(plain_decoder, an_interrupted_request_goes_on_as_if_nothing_had_happened) {
  const auto model = load_parity_model("qwen2");
  for (const bool keep_prefixes : {false, true}) {
    for (const DecodeRequest& request : requests()) {
      const std::vector<Token> whole = run(model, {request}, 512)[0];
      const auto decoder = make_plain_decoder(model, {.keep_prefixes = keep_prefixes}, CoreSet());
      DecodeRequest rest = request;
      std::vector<Token> got;
      while (got.size() < request.max_tokens) {
        decoder->start(9, rest);
        // A few tokens at a time, then it has to make room.
        for (int i = 0; i < 6 && got.size() < request.max_tokens; ++i) {
          const auto tokens = decoder->step({});
          ASSERT_EQ(tokens.size(), 1u);
          got.push_back(tokens[0].sampled.token);
          rest.prompt.push_back(got.back());
        }
        rest.max_tokens = request.max_tokens - got.size();
        decoder->finish(9);
      }
      EXPECT_EQ(got, whole) << "keep_prefixes " << keep_prefixes;
    }
  }
}

TEST(plain_decoder, a_prompt_that_begins_like_an_earlier_one_skips_what_is_there) {
  const auto model = load_parity_model("qwen3");
  const auto decoder = make_plain_decoder(model, {}, CoreSet());
  DecodeRequest request = requests()[3];
  request.max_tokens = 10;
  const auto answer = [&](RequestId id) {
    std::vector<Token> tokens;
    while (tokens.size() < request.max_tokens)
      for (const DecodedToken& token : decoder->step({})) tokens.push_back(token.sampled.token);
    decoder->finish(id);
    return tokens;
  };
  decoder->start(1, request);
  EXPECT_EQ(decoder->reused_prompt_tokens(1), 0u);
  const std::vector<Token> first = answer(1);

  decoder->start(2, request);
  EXPECT_EQ(decoder->reused_prompt_tokens(2), full_pages(request.prompt.size() - 1));
  EXPECT_EQ(answer(2), first) << "the same prompt, the same answer";

  DecodeRequest next =
      request;  // the conversation goes on: all but the last answered token is there
  next.prompt.insert(next.prompt.end(), first.begin(), first.end());
  next.prompt.push_back(3);
  decoder->start(3, next);
  EXPECT_EQ(decoder->reused_prompt_tokens(3), full_pages(next.prompt.size() - 2));
  EXPECT_GT(decoder->reused_prompt_tokens(3), 0u);
  const std::vector<Token> with_reuse = answer(3);
  EXPECT_EQ(with_reuse, run(model, {next}, 512)[0]);
}

TEST(plain_decoder, prefixes_are_shared_while_they_are_made_and_only_within_a_scope) {
  const auto model = load_parity_model("qwen3");
  const auto decoder = make_plain_decoder(model, {.capacity_tokens = 512}, CoreSet());
  DecodeRequest request = requests()[3];
  request.max_tokens = 6;
  request.prompt.resize(100, 7);
  decoder->start(1, request);
  decoder->step({.max_prompt_tokens = 70});
  const size_t free_before = decoder->free_tokens();
  decoder->start(2, request);
  EXPECT_EQ(decoder->reused_prompt_tokens(2), 64u) << "of the 70 that the first has read";
  EXPECT_EQ(decoder->free_tokens(), free_before);
  request.prefix_scope = 1;
  decoder->start(3, request);
  EXPECT_EQ(decoder->reused_prompt_tokens(3), 0u) << "another scope";
  Answers answers;
  while (answers[3].size() < 6)
    for (const DecodedToken& token : decoder->step({.max_prompt_tokens = 9}))
      answers[token.request].push_back(token.sampled.token);
  EXPECT_EQ(answers[2], answers[1]);
  EXPECT_EQ(answers[3], answers[1]);
}

// After its prompt each request moves to the other decoder.
void move_each(const std::shared_ptr<const models::LanguageModel>& model,
               const std::shared_ptr<KvPool>& pool, const std::shared_ptr<KvPool>& to) {
  const auto all = requests();
  Answers got;
  {
    const auto prefill = make_plain_decoder(model, {.pool = pool}, CoreSet());
    const auto decode = make_plain_decoder(model, {.pool = to}, CoreSet());
    for (RequestId id = 0; id < all.size(); ++id) {
      prefill->start(id, all[id]);
      while (prefill->prompt_tokens_left(id) != 0)
        for (const DecodedToken& token : prefill->step({.max_prompt_tokens = 11}))
          got[token.request].push_back(token.sampled.token);
      const size_t free_before = prefill->free_tokens();
      decode->attach(prefill->detach(id));
      if (to == pool)
        EXPECT_EQ(decode->free_tokens(), free_before) << "no page is copied";
      else
        EXPECT_GT(prefill->free_tokens(), free_before) << "its pages come back";
      for (const DecodedToken& token : decode->step({})) {
        got[token.request].push_back(token.sampled.token);
        if (token.last) decode->finish(token.request);
      }
    }
    for (bool more = true; more;) {
      more = false;
      std::vector<RequestId> ended;
      for (const DecodedToken& token : decode->step({})) {
        more = true;
        got[token.request].push_back(token.sampled.token);
        if (token.last) ended.push_back(token.request);
      }
      for (const RequestId id : ended) decode->finish(id);
    }
    prefill->start(99, all[1]);  // left behind: the pages come back
    prefill->step({});
    const auto on_its_way = prefill->detach(99);
  }
  for (RequestId id = 0; id < all.size(); ++id)
    EXPECT_EQ(got[id], run(model, {all[id]}, 512)[0]) << id;
  for (const auto& each : {pool, to}) {
    EXPECT_EQ(each->free_tokens(), each->capacity_tokens());
    EXPECT_EQ(each->audit(), "");
  }
}

std::shared_ptr<KvPool> pool_of(const models::LanguageModel& model, size_t tokens) {
  return std::make_shared<KvPool>(KvCacheOptions{.num_layers = model.config().num_layers,
                                                 .shape = model.kv_shape(),
                                                 .capacity_tokens = tokens});
}

// Two loops over one pool, as in semi-PD.
TEST(plain_decoder, a_request_goes_on_in_another_decoder_of_the_same_pool) {
  const auto model = load_parity_model("llama3_tied");
  const auto pool = pool_of(*model, 512);
  move_each(model, pool, pool);
}

// Its keys and values are copied, and a pool of another size lays them out in another way.
TEST(plain_decoder, a_request_goes_on_in_a_decoder_of_another_pool) {
  const auto model = load_parity_model("llama3_tied");
  move_each(model, pool_of(*model, 512), pool_of(*model, 768));
  const auto from = make_plain_decoder(model, {.pool = pool_of(*model, 512)}, CoreSet());
  const auto full = make_plain_decoder(model, {.pool = pool_of(*model, 16)}, CoreSet());
  from->start(1, requests()[3]);
  from->step({});
  EXPECT_THROW(full->attach(from->detach(1)), Error);
  EXPECT_EQ(from->free_tokens(), 512u);
}


TEST(plain_decoder, requests_end_at_their_limit_or_the_contexts) {
  const auto model = load_parity_model("llama_linear");
  const auto decoder = make_plain_decoder(model, {.capacity_tokens = 64}, CoreSet());
  EXPECT_EQ(decoder->context_length(), 64u);
  DecodeRequest request;
  request.prompt.assign(60, 5);
  decoder->start(1, request);
  std::vector<DecodedToken> got;
  for (int i = 0; i < 10; ++i)
    for (const DecodedToken& token : decoder->step({})) got.push_back(token);
  ASSERT_EQ(got.size(), 4u) << "64 tokens in all";
  EXPECT_TRUE(got.back().last);
  EXPECT_FALSE(got[2].last);
  decoder->finish(1);

  request.prompt.assign(3, 5);
  request.max_tokens = 0;
  decoder->start(2, request);
  EXPECT_TRUE(decoder->step({}).empty());
  decoder->finish(2);
}

TEST(plain_decoder, a_full_cache_says_so_and_changes_nothing) {
  const auto model = load_parity_model("llama_linear");
  const auto all = requests();
  const auto decoder =
      make_plain_decoder(model, {.capacity_tokens = 64, .keep_prefixes = false}, CoreSet());
  decoder->start(0, all[2]);  // 32 tokens of prompt: a page, and a second one for the answer
  decoder->start(1, all[1]);
  std::vector<Token> got;
  const auto step = [&] {
    for (const DecodedToken& token : decoder->step({}))
      if (token.request == 0) got.push_back(token.sampled.token);
  };
  step();
  try {
    step();
    FAIL() << "three pages fit into two";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfResources);
  }
  decoder->finish(1);
  EXPECT_EQ(decoder->free_tokens(), 32u);
  while (got.size() < all[2].max_tokens) step();
  EXPECT_EQ(got, run(model, {all[2]}, 512)[0]);
}

TEST(plain_decoder, kept_prefixes_make_room) {
  const auto model = load_parity_model("llama_linear");
  const auto all = requests();
  const auto decoder =
      make_plain_decoder(model, {.capacity_tokens = 64}, CoreSet());
  for (RequestId id = 0; id < 5; ++id) {
    decoder->start(id, all[id]);
    std::vector<Token> got;
    while (got.size() < all[id].max_tokens)
      for (const DecodedToken& token : decoder->step({})) got.push_back(token.sampled.token);
    decoder->finish(id);
    EXPECT_EQ(got, run(model, {all[id]}, 512)[0]);
  }
}

TEST(plain_decoder, one_failing_request_does_not_stop_the_others) {
  const auto model = load_parity_model("qwen2");
  const auto decoder = make_plain_decoder(model, {}, CoreSet());
  DecodeRequest bad;
  bad.prompt = {1, 2, 3};
  for (Token token = 0; token < 96; ++token) bad.sampling.logit_bias.emplace_back(token, -INFINITY);
  decoder->start(1, bad);
  const DecodeRequest good = requests()[4];
  decoder->start(2, good);
  std::vector<Token> got;
  size_t errors = 0;
  while (got.size() < good.max_tokens)
    for (const DecodedToken& token : decoder->step({})) {
      if (token.request == 2) got.push_back(token.sampled.token);
      errors += token.error.has_value();
      EXPECT_TRUE(!token.error || token.last);
    }
  EXPECT_EQ(errors, 1u);
  EXPECT_EQ(got, run(model, {good}, 512)[0]);
}

TEST(plain_decoder, bad_requests_are_refused) {
  const auto model = load_parity_model("qwen2");
  const auto decoder = make_plain_decoder(model, {.capacity_tokens = 64}, CoreSet());
  const auto message = [&](const DecodeRequest& request) -> std::string {
    try {
      decoder->start(1, request);
      decoder->finish(1);
      return "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
      return error.what();
    }
  };
  EXPECT_NE(message({}).find("prompt is empty"), std::string::npos);
  const std::string too_long = message({.prompt = std::vector<Token>(64, 1)});
  EXPECT_NE(too_long.find("64 tokens"), std::string::npos) << too_long;
  EXPECT_NE(message({.prompt = {1, 96}}).find("token 96"), std::string::npos);
  EXPECT_NE(message({.prompt = {-1}}).find("token -1"), std::string::npos);
  DecodeRequest cold{.prompt = {1}};
  cold.sampling.temperature = -1;
  EXPECT_NE(message(cold).find("temperature"), std::string::npos);
  EXPECT_EQ(message({.prompt = std::vector<Token>(63, 1)}), "accepted");
}

}  // namespace
}  // namespace weft::text
