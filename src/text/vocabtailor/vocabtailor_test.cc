// The oracle of a tailored head is the whole one with every other token masked: same random numbers,
// same tokens, whatever the sampler and the batch do.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "base/error.h"
#include "kernels/quantize.h"
#include "text/decoder.h"
#include "text/grammar/test_tokenizer.h"
#include "text/test_model.h"
#include "text/vocabtailor/packed_head.h"
#include "text/vocabtailor/tailored_step.h"

namespace weft::text {
namespace {

constexpr size_t kVocabulary = 96;  // of the models; the tokenizer knows fewer, the rest is padding
constexpr size_t kKnown = 90;

// A few single bytes, words, and an end: few enough to be required.
const formats::Tokenizer& tokenizer() {
  static const grammar::TestTokenizer made = [] {
    std::vector<std::string> pieces = {"a", "b", "\n", "\xC3"};
    while (pieces.size() < kKnown - 1) pieces.push_back("word" + std::to_string(pieces.size()));
    return grammar::TestTokenizer(pieces, 1);
  }();
  return made;
}

VocabProfile profile_of(const std::set<Token>& ids) {
  VocabProfile profile;
  profile.name = "test";
  profile.tokenizer = tokenizer_hash(tokenizer());
  profile.vocab_size = kVocabulary;
  profile.verify = {.least_top_probability = 0, .most_entropy = 100, .audit_every = 0};
  for (const Token id : ids) {
    profile.ids.push_back(static_cast<uint32_t>(id));
    profile.df.push_back(1);
  }
  return profile;
}

std::shared_ptr<const PackedHead> head_of(const std::shared_ptr<const models::LanguageModel>& model,
                                          const VocabProfile& profile) {
  return std::make_shared<PackedHead>(model, tokenizer(), "", &profile, CoreSet());
}

// The oracle: the whole head, and this mask at every step.
class FixedFilter final : public TokenFilter {
 public:
  explicit FixedFilter(TokenMask mask) : mask_(std::move(mask)) {}
  std::unique_ptr<TokenFilterState> start() const override {
    return std::make_unique<State>(mask_);
  }

 private:
  struct State final : TokenFilterState {
    explicit State(const TokenMask& m) : allowed(m) {}
    const TokenMask& mask() override { return allowed; }
    void accept(Token) override {}
    bool can_end() const override { return false; }
    bool exhausted() const override { return false; }
    TokenMask allowed;
  };
  TokenMask mask_;
};

std::vector<DecodeRequest> requests() {
  std::vector<DecodeRequest> out;
  const SamplingOptions samplings[] = {
      {.temperature = 0},
      {.temperature = 1.3f, .top_k = 0, .top_p = 0.8f, .min_p = 0},
      {.temperature = 0.9f, .top_k = 5, .min_p = 0.1f, .repetition_penalty = 1.3f},
      {.temperature = 0, .presence_penalty = 1, .frequency_penalty = 0.5f},
      {.temperature = 1, .top_k = 60, .top_p = 1, .min_p = 0, .typical_p = 0.7f},
      {.temperature = 2, .top_k = -1, .top_p = 1, .min_p = 0,
       .logit_bias = {{33, 2.0f}, {70, 1.5f}, {20, -INFINITY}, {71, -3.0f}}},
  };
  for (size_t i = 0; i < std::size(samplings); ++i) {
    DecodeRequest& request = out.emplace_back();
    for (size_t t = 0; t < 3 + 7 * i; ++t)
      request.prompt.push_back(static_cast<Token>(4 + (t * t + 5 * i) % 11 + 2 * i));
    request.sampling = samplings[i];
    request.sampling.seed = 11 + i;
    request.random_stream = i;
    request.max_tokens = 40;
  }
  return out;
}

// The model's matrix has rows that no tokenizer knows. Real models never choose those; these might.
void ban_padding(DecodeRequest& request) {
  for (size_t id = kKnown; id < kVocabulary; ++id)
    request.sampling.logit_bias.emplace_back(static_cast<Token>(id), -INFINITY);
}

struct Answer {
  std::vector<Token> tokens;
  std::vector<float> logprobs;
  VocabUse use;
  bool operator==(const Answer& other) const {
    return tokens == other.tokens && logprobs == other.logprobs;
  }
};
using Answers = std::map<RequestId, Answer>;

Answers run(const std::shared_ptr<const models::LanguageModel>& model,
            const std::vector<DecodeRequest>& requests, size_t threads = 1) {
  ThreadPool pool(threads);
  const auto decoder = make_plain_decoder(model, {.capacity_tokens = 2048}, pool.cores());
  Answers answers;
  size_t started = 0, done = 0;
  while (done < requests.size()) {
    if (started < requests.size()) {
      decoder->start(started, requests[started]);
      ++started;
    }
    std::vector<RequestId> ended;
    for (const DecodedToken& token : decoder->step({})) {
      EXPECT_FALSE(token.error) << token.error->what();
      answers[token.request].tokens.push_back(token.sampled.token);
      answers[token.request].logprobs.push_back(token.sampled.logprob);
      if (token.last) ended.push_back(token.request);
    }
    for (const RequestId id : ended) {
      answers[id].use = decoder->vocab_use(id);
      decoder->finish(id);
    }
    done += ended.size();
  }
  return answers;
}

Answer answer(const std::shared_ptr<const models::LanguageModel>& model,
              const DecodeRequest& request) {
  return run(model, {request})[0];
}

DecodeRequest with(DecodeRequest request, VocabMode mode, std::shared_ptr<const PackedHead> head,
                   size_t draft_tokens = 4) {
  request.vocab = {mode, std::move(head), draft_tokens};
  return request;
}

// What a request may say: required, task, prompt, positive bias.
TokenMask set_of(const PackedHead& head, const DecodeRequest& request) {
  TokenMask mask = head.set().mask();
  for (const Token token : request.prompt) mask.allow(token);
  for (const auto& [token, bias] : request.sampling.logit_bias)
    if (bias > 0) mask.allow(token);
  return mask;
}

TEST(vocabtailor, hybrid_is_the_whole_head_with_the_rest_masked) {
  for (const char* name : {"llama3_tied", "qwen2", "mistral"}) {
    const auto plain = load_parity_model(name);
    const auto model = load_parity_model(name, models::HeadLoading::kWhenNeeded);
    const auto head = head_of(model, profile_of({8, 40, 41, 50, 60, 61, 62, 77}));
    for (const DecodeRequest& request : requests()) {
      for (const bool logprobs : {false, true}) {
        DecodeRequest masked = request;
        masked.filter = std::make_shared<FixedFilter>(set_of(*head, request));
        masked.want_logprobs = logprobs;
        DecodeRequest tailored = with(request, VocabMode::kHybrid, head);
        tailored.want_logprobs = logprobs;
        const Answer got = answer(model, tailored);
        EXPECT_EQ(got, answer(plain, masked)) << name << " request " << request.random_stream;
        EXPECT_EQ(got.use.steps, request.max_tokens);
        EXPECT_LT(got.use.size, kVocabulary / 2);
        EXPECT_EQ(got.use.escapes, logprobs ? request.max_tokens : 0);
      }
    }
  }
}

TEST(vocabtailor, the_whole_head_of_a_tied_model_stays_in_its_file) {
  const auto model = load_parity_model("llama3_tied", models::HeadLoading::kWhenNeeded);
  const auto head = head_of(model, profile_of({40}));
  answer(model, with(requests()[2], VocabMode::kHybrid, head));
  EXPECT_EQ(model->packed_head_bytes(), 0u);
  answer(model, with(requests()[2], VocabMode::kDraft, head));
  EXPECT_GT(model->packed_head_bytes(), 0u);
}

TEST(vocabtailor, greedy_answers_inside_the_set_are_those_of_the_whole_head) {
  const auto model = load_parity_model("qwen3");
  std::mt19937 random(3);
  for (size_t i = 0; i < 40; ++i) {
    DecodeRequest request{.prompt = {}, .sampling = {.temperature = 0}, .max_tokens = 30};
    for (size_t t = 0; t < 2 + i % 9; ++t) request.prompt.push_back(static_cast<Token>(random() % kKnown));
    ban_padding(request);
    const Answer off = answer(model, request);
    std::set<Token> ids(off.tokens.begin(), off.tokens.end());
    for (size_t more = 0; more < i % 4; ++more) ids.insert(static_cast<Token>(random() % kKnown));
    const auto head = head_of(model, profile_of(ids));
    for (const VocabMode mode : {VocabMode::kHybrid, VocabMode::kStatic, VocabMode::kVerify}) {
      const Answer got = answer(model, with(request, mode, head));
      EXPECT_EQ(got, off) << "request " << i << " " << name(mode);
    }
  }
}

TEST(vocabtailor, a_missing_token_changes_the_answer_there_and_verify_finds_it) {
  const auto model = load_parity_model("qwen3");
  DecodeRequest request = requests()[0];
  request.max_tokens = 24;
  ban_padding(request);
  const Answer off = answer(model, request);
  std::set<Token> ids(off.tokens.begin(), off.tokens.end());
  // A token that neither the prompt nor the required ones bring back.
  const auto bare = head_of(model, profile_of({}));
  Token missing = -1;
  for (const Token token : off.tokens)
    if (!set_of(*bare, request).allows(token)) missing = token;
  ASSERT_GE(missing, 0);
  ids.erase(missing);
  const auto first = static_cast<size_t>(
      std::find(off.tokens.begin(), off.tokens.end(), missing) - off.tokens.begin());
  VocabProfile profile = profile_of(ids);
  const auto head = head_of(model, profile);
  const Answer hybrid = answer(model, with(request, VocabMode::kHybrid, head));
  for (size_t i = 0; i < first; ++i) EXPECT_EQ(hybrid.tokens[i], off.tokens[i]);
  EXPECT_NE(hybrid.tokens[first], off.tokens[first]);

  profile.verify.least_top_probability = 1.1f;  // every step is doubtful
  DecodeRequest doubtful = with(request, VocabMode::kVerify, head_of(model, profile));
  const Answer verified = answer(model, doubtful);
  EXPECT_EQ(verified, off);
  EXPECT_EQ(verified.use.escapes, request.max_tokens);
  EXPECT_EQ(verified.use.misses, 1u) << "once found, it is in the set";

  profile.verify = {.least_top_probability = 0, .most_entropy = 100, .audit_every = 1};
  const Answer audited = answer(model, with(request, VocabMode::kVerify, head_of(model, profile)));
  EXPECT_EQ(audited, off);
  EXPECT_EQ(audited.use.audits, request.max_tokens);
  EXPECT_EQ(audited.use.audit_misses, 1u);
}

// The tiny models' logits lie close together, so that a sketch asks for many rows; what it must not do
// is miss one. Sampled answers are the whole head's too, where tokens out of reach could not be drawn.
TEST(vocabtailor, screening_finds_what_the_set_lacks) {
  for (const char* name : {"llama3_tied", "qwen2", "qwen3"}) {
    const auto model = load_parity_model(name, models::HeadLoading::kWhenNeeded);
    size_t misses = 0;
    for (const auto& head : {head_of(model, profile_of({})), head_of(model, profile_of({40, 61, 77}))}) {
      for (DecodeRequest request : requests()) {
        ban_padding(request);
        const Answer got = answer(model, with(request, VocabMode::kScreen, head));
        EXPECT_EQ(got, answer(load_parity_model(name), request))
            << name << " request " << request.random_stream;
        misses += got.use.misses;
        EXPECT_LE(got.use.misses, got.use.escapes);
        EXPECT_LE(got.use.escapes, got.use.screened);
      }
    }
    EXPECT_GT(misses, 20u) << "the sets lack tokens, so others were found";
    EXPECT_EQ(model->packed_head_bytes(), 0u) << "without the whole head";
  }
}

TEST(vocabtailor, screening_computes_few_rows_where_one_token_stands_out) {
  const auto model = load_parity_model("qwen3");
  const auto head = head_of(model, profile_of({40}));
  const kernels::RowSketch& sketch = head->sketch(CoreSet());
  EXPECT_EQ(sketch.num_rows(), kKnown) << "padding is never sampled";
  const size_t hidden_size = model->config().hidden_size;
  const std::vector<Token> prompt = {9};
  TailoredRequest request({VocabMode::kScreen, head}, prompt, {}, CoreSet());
  std::vector<float> direction(hidden_size);
  const TensorView rows = model->head_weight();
  kernels::dequantize(rows.dtype, rows.row(66), direction.data(), hidden_size);
  TailoredStep step;
  step.add(request, direction.data());
  step.compute(CoreSet());
  EXPECT_NE(step.best(0), 66) << "not in the set";
  const auto found = step.screen(0, {}, CoreSet());
  ASSERT_TRUE(found);
  EXPECT_EQ(step.best(0), 66);
  EXPECT_NE(step.spread(0)[66], -INFINITY);
  step.give_back(0);
  EXPECT_EQ(step.spread(0)[66], -INFINITY) << "for one step only";
  step.give_back(0);

  TokenMask others(kVocabulary), nothing(kVocabulary);
  for (Token token = 0; token < 60; ++token) others.allow(token);
  step.screen(0, {.allowed = &others}, CoreSet());
  EXPECT_NE(step.best(0, &others), 66);
  EXPECT_FALSE(step.screen(0, {.allowed = &nothing}, CoreSet()));
  // A token that penalties may push down does not keep others away.
  const Token lowered[] = {step.best(0)};
  const size_t with_it = *step.screen(0, {}, CoreSet());
  EXPECT_GE(*step.screen(0, {.lowered = lowered}, CoreSet()), with_it);
}

TEST(vocabtailor, drafts_change_nothing) {
  for (const char* name : {"llama3_tied", "qwen3"}) {
    const auto model = load_parity_model(name);
    const auto head = head_of(model, profile_of({40, 41, 50, 60, 61, 62, 77}));
    size_t rejected = 0;
    for (const DecodeRequest& request : requests()) {
      const Answer off = answer(model, request);
      for (const size_t draft_tokens : {1, 2, 4, 7}) {
        const Answer got = answer(model, with(request, VocabMode::kDraft, head, draft_tokens));
        EXPECT_EQ(got, off) << name << " request " << request.random_stream << ", " << draft_tokens;
        rejected += got.use.rejected;
      }
    }
    EXPECT_GT(rejected, 0u) << "the sets lack tokens, so some drafts were wrong";
  }
}

TEST(vocabtailor, a_batch_equals_each_request_alone) {
  const auto model = load_parity_model("qwen3");
  VocabProfile doubtful = profile_of({30, 41, 63});
  doubtful.verify = {.least_top_probability = 0.3f, .most_entropy = 2, .audit_every = 5};
  const std::shared_ptr<const PackedHead> heads[] = {head_of(model, profile_of({40, 77})),
                                                     head_of(model, doubtful)};
  std::vector<DecodeRequest> all;
  size_t i = 0;
  for (const VocabMode mode : {VocabMode::kHybrid, VocabMode::kVerify, VocabMode::kScreen,
                               VocabMode::kDraft, VocabMode::kStatic, VocabMode::kOff}) {
    for (const DecodeRequest& request : requests()) {
      all.push_back(mode == VocabMode::kOff ? request : with(request, mode, heads[i % 2]));
      all.back().want_logprobs = i++ % 5 == 4;
    }
  }
  std::mt19937 random(5);
  std::shuffle(all.begin(), all.end(), random);
  Answers alone;
  for (size_t r = 0; r < all.size(); ++r) alone[r] = answer(model, all[r]);
  for (const size_t threads : {1, 2}) {
    const Answers together = run(model, all, threads);
    for (size_t r = 0; r < all.size(); ++r)
      EXPECT_EQ(together.at(r), alone[r]) << "request " << r << " of mode " << name(all[r].vocab.mode);
  }
}

TEST(vocabtailor, an_interrupted_request_goes_on_as_if_nothing_had_happened) {
  const auto model = load_parity_model("qwen3");
  const auto head = head_of(model, profile_of({40, 50, 60, 61, 77}));
  for (const VocabMode mode : {VocabMode::kHybrid, VocabMode::kScreen, VocabMode::kDraft}) {
    for (const DecodeRequest& request : requests()) {
      const Answer whole = answer(model, with(request, mode, head));
      const auto decoder = make_plain_decoder(model, {}, CoreSet());
      DecodeRequest rest = with(request, mode, head);
      std::vector<Token> got;
      while (got.size() < request.max_tokens) {
        decoder->start(1, rest);
        for (int step = 0; step < 7; ++step) {
          bool last = false;
          for (const DecodedToken& token : decoder->step({})) {
            got.push_back(token.sampled.token);
            last = token.last;
          }
          if (last) break;
        }
        decoder->finish(1);
        rest.prompt = request.prompt;
        rest.prompt.insert(rest.prompt.end(), got.begin(), got.end());
        rest.num_generated = got.size();
        rest.max_tokens = request.max_tokens;
      }
      EXPECT_EQ(got, whole.tokens) << name(mode) << " request " << request.random_stream;
    }
  }
}

TEST(vocabtailor, padding_and_the_tails_of_others_are_never_sampled) {
  const auto model = load_parity_model("llama3_tied");
  const auto head = head_of(model, profile_of({40, 50}));
  const size_t hidden_size = model->config().hidden_size;
  std::vector<TailoredRequest> all;
  for (Token i = 0; i < 8; ++i) {
    // Disjoint prompts, and ids that only the matrix has.
    const std::vector<Token> prompt = {4 + 2 * i, 5 + 2 * i, static_cast<Token>(kKnown) + i % 6};
    all.emplace_back(VocabChoice{VocabMode::kHybrid, head}, prompt, SamplingOptions{}, CoreSet());
    EXPECT_EQ(all.back().use().dynamic_size, 2u);
  }
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  TailoredStep step;
  std::vector<float> hidden(8 * hidden_size);
  for (int round = 0; round < 2000; ++round) {
    for (float& value : hidden) value = normal(random) * 5 - 20;  // mostly negative logits
    step.clear();
    for (size_t i = 0; i < 8; ++i) step.add(all[i], hidden.data() + i * hidden_size);
    step.compute(CoreSet());
    for (size_t i = 0; i < 8; ++i) {
      const Token best = step.best(i);
      ASSERT_TRUE(all[i].contains(best)) << best;
      ASSERT_LT(best, static_cast<Token>(kKnown));
      const std::span<float> logits = step.spread(i);
      for (size_t token = 0; token < kVocabulary; ++token)
        ASSERT_EQ(logits[token] != -INFINITY, all[i].contains(static_cast<Token>(token)));
      step.give_back(i);
    }
  }
}

TEST(vocabtailor, a_filter_that_leaves_nothing_of_the_set_gets_the_whole_head) {
  const auto model = load_parity_model("qwen3");
  const auto head = head_of(model, profile_of({40}));
  TokenMask outside(kVocabulary);
  for (const Token token : {66, 67, 68}) outside.allow(token);
  for (const VocabMode mode :
       {VocabMode::kHybrid, VocabMode::kVerify, VocabMode::kScreen, VocabMode::kDraft}) {
    DecodeRequest request = requests()[0];
    request.max_tokens = 12;
    request.filter = std::make_shared<FixedFilter>(outside);
    const Answer off = answer(model, request);
    const Answer got = answer(model, with(request, mode, head));
    if (mode == VocabMode::kDraft) {
      EXPECT_EQ(got, off);
      continue;
    }
    for (const Token token : got.tokens) EXPECT_TRUE(outside.allows(token));
    EXPECT_EQ(got.tokens[0], off.tokens[0]);
    EXPECT_GE(got.use.misses, 1u);
  }
}

TEST(vocabtailor, a_set_that_is_too_large_gives_the_whole_head) {
  const auto model = load_parity_model("qwen3");
  std::set<Token> most;
  for (Token token = 0; token < 60; ++token) most.insert(token);
  const auto head = head_of(model, profile_of(most));
  for (const DecodeRequest& request : requests()) {
    const Answer got = answer(model, with(request, VocabMode::kHybrid, head));
    EXPECT_EQ(got, answer(model, request));
    EXPECT_TRUE(got.use.whole);
    EXPECT_EQ(got.use.size, kVocabulary);
  }
}

TEST(vocabtailor, too_many_escapes_end_in_the_whole_head) {
  const auto model = load_parity_model("qwen3");
  VocabProfile profile = profile_of({40});
  profile.verify.least_top_probability = 0.5f;
  const auto head = head_of(model, profile);
  const std::vector<Token> prompt = {9};
  const std::vector<float> sure = {9, 0, 0}, unsure = {0, 0, 0};
  for (const size_t doubtful_in_four : {1, 2}) {
    TailoredRequest request({VocabMode::kVerify, head}, prompt, {}, CoreSet());
    for (size_t step = 0; step < 256; ++step) {
      EXPECT_FALSE(request.whole());
      const bool doubt = step % 4 < doubtful_in_four;
      EXPECT_EQ(request.escapes(doubt ? unsure : sure, {}, 9, step), doubt);
    }
    EXPECT_EQ(request.whole(), doubtful_in_four == 2) << "96 of 256 are too many, 64 are not";
  }
}

TEST(packed_head, has_what_no_answer_can_lack_and_names_what_is_wrong) {
  const auto model = load_parity_model("qwen3");
  const PackedHead bare(model, tokenizer(), "", nullptr, CoreSet());
  EXPECT_EQ(bare.num_required(), 5u);  // four single bytes and the end
  EXPECT_TRUE(bare.set().contains(static_cast<Token>(kKnown) - 1));
  EXPECT_TRUE(bare.ends_answer(static_cast<Token>(kKnown) - 1));
  EXPECT_TRUE(bare.is_fallback_byte(3));
  EXPECT_FALSE(bare.is_fallback_byte(0));
  VocabProfile other = profile_of({5});
  other.tokenizer = "0123456789abcdef";
  EXPECT_THROW(head_of(model, other), Error);
  EXPECT_THROW(head_of(model, profile_of({95})), Error) << "padding";
  EXPECT_LT(bare.memory().packed_bytes, bare.memory().full_bytes);
}

}  // namespace
}  // namespace weft::text
