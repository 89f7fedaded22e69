// Requests with filters on the plain decoder: what they answer keeps to the grammar and depends on
// the request alone.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/generate.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/test_tokenizer.h"
#include "text/test_model.h"

namespace weft::text::grammar {
namespace {

const TextModel& model() {
  static const TextModel loaded = load_random_model({.context = 256}, "tiny", 1);
  return loaded;
}

std::shared_ptr<const TokenFilter> filter_of(const std::string& gbnf) {
  return model().filters().get(gbnf, formats::LeadingSpace::kKept,
                               [&] { return parse_gbnf(gbnf); });
}

const char* const kGrammars[] = {
    "root ::= \"[\" (root (\",\" root)*)? \"]\" | [a-zé]{1,4} | \"😀\"",
    "root ::= [0-9]+ \".\" [0-9]+",
    "root ::= (\"yes\" | \"no\") \", \" [a-z ]{10,30} \".\"",
};

std::vector<DecodeRequest> requests() {
  std::vector<DecodeRequest> out;
  for (size_t i = 0; i < 6; ++i) {
    DecodeRequest& request = out.emplace_back();
    for (size_t t = 0; t < 5 + 9 * i; ++t)
      request.prompt.push_back(static_cast<Token>(1 + (t * 7 + i * 11) % 90));
    request.sampling = {.temperature = i % 2 == 0 ? 0.0f : 1.5f, .seed = 3 + i};
    request.random_stream = i;
    request.max_tokens = 24;
    if (i != 3) request.filter = filter_of(kGrammars[i % 3]);
  }
  return out;
}

using Answers = std::map<RequestId, std::vector<Token>>;

Answers run(const std::vector<DecodeRequest>& all) {
  const auto decoder = model().make_decoder(CoreSet(), {.capacity_tokens = 1024});
  Answers answers;
  for (size_t i = 0; i < all.size(); ++i) decoder->start(i, all[i]);
  for (size_t done = 0; done < all.size();) {
    std::vector<RequestId> ended;
    for (const DecodedToken& token : decoder->step({.max_prompt_tokens = 7})) {
      EXPECT_FALSE(token.error) << token.error->what();
      answers[token.request].push_back(token.sampled.token);
      if (token.last || model().tokenizer().is_end(token.sampled.token))
        ended.push_back(token.request);
    }
    for (const RequestId id : ended) decoder->finish(id);
    done += ended.size();
  }
  return answers;
}

TEST(filtered_decoding, alone_in_a_batch_and_after_preemption_alike) {
  const auto all = requests();
  const Answers together = run(all);
  for (size_t i = 0; i < all.size(); ++i) {
    const std::vector<Token>& whole = together.at(i);
    EXPECT_EQ(run({all[i]}).at(0), whole) << i;
    // Two tokens at a time, then it has to make room.
    const auto decoder = model().make_decoder(CoreSet());
    DecodeRequest rest = all[i];
    while (rest.num_generated < whole.size()) {
      decoder->start(9, rest);
      for (int n = 0; n < 2 && rest.num_generated < whole.size();) {
        for (const DecodedToken& token : decoder->step({})) {
          rest.prompt.push_back(token.sampled.token);
          ++rest.num_generated;
          ++n;
        }
      }
      decoder->finish(9);
    }
    EXPECT_EQ(
        std::vector(rest.prompt.end() - static_cast<ptrdiff_t>(whole.size()), rest.prompt.end()),
        whole)
        << i;
  }
}

TEST(filtered_decoding, answers_keep_to_the_grammar_and_logprobs_are_the_models) {
  for (DecodeRequest request : requests()) {
    if (!request.filter) continue;
    request.want_logprobs = true;
    request.num_top_logprobs = 3;
    const auto state = request.filter->start();
    const auto filtered = model().make_decoder(CoreSet()), free = model().make_decoder(CoreSet());
    filtered->start(1, request);
    for (int n = 0; n < 24;) {
      for (const DecodedToken& token : filtered->step({})) {
        ++n;
        ASSERT_TRUE(state->mask().allows(token.sampled.token));
        state->accept(token.sampled.token);
        // What the model itself would say here.
        DecodeRequest open = request;
        open.filter = nullptr;
        free->start(2, open);
        std::vector<TokenLogprob> top;
        while (top.empty())
          for (const DecodedToken& own : free->step({})) top = own.sampled.top;
        free->finish(2);
        ASSERT_EQ(top.size(), token.sampled.top.size());
        for (size_t i = 0; i < top.size(); ++i) {
          EXPECT_EQ(top[i].token, token.sampled.top[i].token);
          EXPECT_EQ(top[i].logprob, token.sampled.top[i].logprob);
        }
        request.prompt.push_back(token.sampled.token);
        if (token.last || model().tokenizer().is_end(token.sampled.token)) n = 24;
      }
    }
  }
}

TEST(filtered_decoding, an_answer_so_far_that_does_not_fit_is_refused) {
  const auto decoder = model().make_decoder(CoreSet());
  DecodeRequest request;
  request.prompt = model().tokenizer().encode("ab");
  request.num_generated = 1;
  request.filter = filter_of("root ::= [0-9]");
  EXPECT_THROW(decoder->start(1, request), Error);
  request.num_generated = 0;
  decoder->start(1, request);  // nothing was left behind
}

// A vocabulary without an end token: the decoder itself sees that nothing can follow.
TEST(filtered_decoding, ends_where_nothing_can_follow) {
  std::vector<std::string> pieces = byte_pieces();
  const TestTokenizer tokenizer(pieces, 0);
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const auto decoder = model().make_decoder(CoreSet());
  const std::vector<Token> prompt = {5, 6, 7};
  GenerateOptions options;
  options.filter = make_grammar_filter(parse_gbnf("root ::= [0-9]{3}"), vocabulary);
  const Generation answer = generate(*decoder, tokenizer, prompt, options);
  EXPECT_EQ(answer.tokens.size(), 3u);
  EXPECT_EQ(answer.text.find_first_not_of("0123456789"), std::string::npos);
  EXPECT_EQ(answer.reason, FinishReason::kStop);
}

TEST(filter_cache, keeps_the_latest) {
  const TestTokenizer tokenizer(byte_pieces());
  FilterCache cache(tokenizer, 2);
  int compiled = 0;
  const auto get = [&](const std::string& name) {
    return cache.get(name, formats::LeadingSpace::kKept, [&] {
      ++compiled;
      return parse_gbnf("root ::= \"" + name + "\"");
    });
  };
  const auto a = get("a");
  EXPECT_EQ(get("a"), a);
  get("b");
  get("a");
  get("c");  // b goes
  EXPECT_EQ(compiled, 3);
  EXPECT_EQ(get("a"), a);
  get("b");
  EXPECT_EQ(compiled, 4);
  EXPECT_THROW(cache.get("x", {}, [] { return parse_gbnf(""); }), Error);
}

}  // namespace
}  // namespace weft::text::grammar
