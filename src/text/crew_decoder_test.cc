// A language model over several ranks (threads here): the answers of one process.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/error.h"
#include "comm/thread_transport.h"
#include "formats/random_model.h"
#include "parallel/crew.h"
#include "parallel/flash_overlap/team.h"
#include "parallel/overlap_switch.h"
#include "text/decoder.h"
#include "text/kv_cache.h"

namespace weft::text {
namespace {

using comm::Communicator;
using models::LanguageModel;
using parallel::RankPlan;

struct ModelFile {
  explicit ModelFile(const std::string& mix)
      : path(std::filesystem::path(testing::TempDir()) /
             fmt::format("crew-{}-{}.gguf", mix, getpid())) {
    formats::write_random_model(path, "tiny", formats::quant_mix(mix), 5, CoreSet());
  }
  ~ModelFile() { std::filesystem::remove(path); }
  std::filesystem::path path;
};

// "tiny" has 4 heads over 2 heads of keys and values, 512 features in its MLP, a context of 512.
std::filesystem::path model_file(const std::string& mix) {
  static std::map<std::string, ModelFile> made;
  return made.try_emplace(mix, mix).first->second.path;
}

std::vector<Token> prompt_of(size_t length) {
  std::vector<Token> out;
  for (size_t t = 0; t < length; ++t) out.push_back(static_cast<Token>((t * t * 7 + t * 3) % 500));
  return out;
}

// Runs body(model) on rank 0 of a crew; the other ranks follow.
template <typename Body>
void with_crew(const std::string& file, const RankPlan& plan, Body&& body,
               models::HeadLoading head = models::HeadLoading::kNow) {
  comm::run_thread_ranks(plan.tensor * plan.sequence, [&](const Communicator& ranks) {
    const auto crew = parallel::make_crew(ranks, plan);
    auto share = models::load_language_model(formats::open_checkpoint(model_file(file)), CoreSet(),
                                             {}, head, nullptr, {}, crew->team);
    if (ranks.rank() == 0) {
      body(std::shared_ptr<const LanguageModel>(parallel::lead(crew, std::move(share))));
    } else {
      KvCopies copies(*share, crew->row());
      parallel::follow(*crew, *share, copies, CoreSet());
    }
  });
}

std::shared_ptr<const LanguageModel> whole_model(const std::string& mix) {
  return models::load_language_model(formats::open_checkpoint(model_file(mix)), CoreSet());
}

// Logits after the prompt and after each of `answer` greedy tokens.
struct Answer {
  std::vector<Token> tokens;
  std::vector<std::vector<float>> logits;
};
Answer greedy(const LanguageModel& model, std::span<const Token> prompt, size_t chunk,
              size_t answer, const std::shared_ptr<const KvPolicy>& policy = nullptr) {
  KvCache cache(KvCacheOptions{.num_layers = model.config().num_layers,
                               .shape = model.kv_shape(),
                               .capacity_tokens = 512,
                               .policy = policy,
                               .division = policy ? 1 : parallel::cache_division(model)});
  const auto workspace = model.make_workspace();
  const SequenceId sequence = cache.create();
  Answer out;
  size_t stored = 0;
  const auto read = [&](std::span<const Token> tokens, bool last) {
    EXPECT_TRUE(cache.reserve(sequence, tokens.size()));
    std::vector<float> logits(model.config().vocab_size);
    const models::SequenceInput input{
        .sequence = sequence,
        .tokens = tokens,
        .first_position = stored,
        .logits = last ? models::LogitsWanted::kLast : models::LogitsWanted::kNone};
    model.forward({&input, 1}, cache, logits.data(), *workspace, CoreSet());
    stored += tokens.size();
    if (!last) return;
    out.tokens.push_back(
        static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    out.logits.push_back(std::move(logits));
  };
  for (size_t done = 0; done < prompt.size();) {
    const size_t count = std::min({chunk, prompt.size() - done, cache.max_piece(sequence)});
    read(prompt.subspan(done, count), done + count == prompt.size());
    done += count;
  }
  for (size_t i = 0; i < answer; ++i) {
    const Token last = out.tokens.back();
    read({&last, 1}, true);
  }
  return out;
}

// The bound of docs/clusters.md. Sums over ranks round in another order (2^-24 of a value), which
// may turn the rounding of a key, value (f16: 2^-11) or activation (int8: 2^-8 of a block's
// largest) the other way; each such turn moves a logit by that part of one of some hundred
// summands. f32 weights: 2^-11 of the largest logit; int8 activations: 2^-5.
double bound(const std::string& mix) { return mix == "f16" ? 1.0 / 2048 : 1.0 / 32; }

void expect_like_one_process(const std::string& mix, const RankPlan& plan, size_t prompt_length,
                             size_t chunk, const std::shared_ptr<const KvPolicy>& policy = nullptr,
                             double limit = 0) {
  const std::vector<Token> prompt = prompt_of(prompt_length);
  const Answer expected = greedy(*whole_model(mix), prompt, chunk, 6, policy);
  Answer got;
  with_crew(mix, plan, [&](const auto& model) { got = greedy(*model, prompt, chunk, 6, policy); });
  limit = std::max(limit, bound(mix));
  ASSERT_EQ(got.logits.size(), expected.logits.size());
  double worst = 0;
  for (size_t i = 0; i < got.logits.size(); ++i) {
    double largest = 0, difference = 0, second = 0;
    const double first =
        static_cast<double>(expected.logits[i][static_cast<size_t>(expected.tokens[i])]);
    second = -1e30;
    for (size_t k = 0; k < got.logits[i].size(); ++k) {
      const double x = static_cast<double>(expected.logits[i][k]);
      largest = std::max(largest, std::abs(x));
      difference = std::max(difference, std::abs(static_cast<double>(got.logits[i][k]) - x));
      if (static_cast<Token>(k) != expected.tokens[i]) second = std::max(second, x);
    }
    worst = std::max(worst, difference / largest);
    EXPECT_LE(difference, limit * largest)
        << mix << ", " << plan.describe() << ", token " << i;
    if (first - second <= 2 * difference) break;  // a tie, which may fall either way
    EXPECT_EQ(got.tokens[i], expected.tokens[i]) << mix << ", " << plan.describe();
  }
  testing::Test::RecordProperty("worst_of_largest_logit", fmt::format("{:.2e}", worst));
}

TEST(crew, tensor_parallel_answers_like_one_process) {
  for (const std::string mix : {"f16", "q8_0", "q4_0"})
    expect_like_one_process(mix, {.tensor = 2}, 100, 64);
}

TEST(crew, sequence_parallel_answers_like_one_process) {
  for (const std::string exchange : {"tasp", "direct", "zigzag", "auto"})
    for (const size_t n : {2, 3}) {
      expect_like_one_process("f16", {.sequence = n, .exchange = exchange}, 400, 400);
      expect_like_one_process(
          "f16", {.sequence = n, .exchange = exchange, .divide_cache = false}, 400, 400);
      expect_like_one_process("q8_0", {.sequence = n, .exchange = exchange}, 389, 389);
    }
}

TEST(crew, pieces_of_a_prompt_are_divided_or_not_as_they_are_long) {
  expect_like_one_process("f16", {.sequence = 2}, 450, 300);  // 300 divided, 150 not
  expect_like_one_process("f16", {.sequence = 2}, 100, 100);
  expect_like_one_process("f16", {.sequence = 2, .divide_cache = false}, 450, 300);
}

// Pages of earlier pieces that others have travel with the new ones; a piece that begins inside a page
// is not divided.
TEST(crew, a_prompt_in_several_divided_pieces) {
  for (const std::string exchange : {"tasp", "direct", "zigzag"})
    for (const bool divide : {true, false})
      expect_like_one_process(
          "f16", {.sequence = 2, .exchange = exchange, .divide_cache = divide}, 470, 160);
  expect_like_one_process("f16", {.tensor = 2, .sequence = 3, .exchange = "tasp"}, 470, 384);
  expect_like_one_process("f16", {.sequence = 2}, 470, 270);
}

TEST(crew, both_at_once) {
  expect_like_one_process("q8_0", {.tensor = 2, .sequence = 2}, 400, 400);
  expect_like_one_process("f16", {.tensor = 2, .sequence = 3}, 420, 420);
}

// For all of the model's heads, whoever has them.
std::shared_ptr<const KvPolicy> policy_of(const KvPolicyOptions& options) {
  const models::LanguageModelConfig config =
      models::read_config(*formats::open_checkpoint(model_file("f16")));
  return std::make_shared<KvPolicy>(
      options, config.num_layers,
      kernels::KvShape{.num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim});
}
KvPolicyOptions direct(uint8_t k, uint8_t v) {
  KvPolicyOptions options;
  options.mode = KvMode::kDirect;
  options.widths = {k, v};
  return options;
}
KvPolicyOptions progressive() {  // from 16 bit down to 4 in what 416 tokens take in 16
  KvPolicyOptions options = direct(4, 4);
  options.budget_bytes = 13 * policy_of(options)->block_bytes();
  options.mode = KvMode::kProgressive;
  options.max_length = 500;
  return options;
}

// Narrow values differ where rounding turns one the other way: a step of a width, of which a head's
// range has 2^bits - 1, in one of its 64 (here 32) features of one token among hundreds. As with int8
// activations, 2^-5 of the largest logit is far beyond what that does.
constexpr double kNarrowBound = 1.0 / 32;

TEST(crew, narrow_keys_and_values_answer_like_one_process) {
  for (const KvPolicyOptions& options : {direct(8, 8), direct(4, 4), direct(16, 2), progressive()})
    expect_like_one_process("f16", {.tensor = 2}, 400, 128, policy_of(options), kNarrowBound);
}

// Factors of heads that rank 1 has, too.
TEST(crew, smoothed_keys_answer_like_one_process) {
  KvPolicyOptions options = direct(8, 8);
  options.transform = kernels::KvTransform::kSmooth;
  const models::LanguageModelConfig config =
      models::read_config(*formats::open_checkpoint(model_file("f16")));
  for (size_t layer = 0; layer < config.num_layers; ++layer) {
    auto& factors = options.smoothing.emplace_back();
    for (size_t i = 0; i < config.num_kv_heads * config.head_dim; ++i)
      factors.push_back(0.5f + 0.01f * static_cast<float>(i % 101));
  }
  expect_like_one_process("f16", {.tensor = 2}, 350, 128, policy_of(options), kNarrowBound);
}

// A piece that is divided reads its own keys and values in 16 bit, where one process has narrowed the
// older ones: what differs is what the widths cost, an eighth of the largest logit at 4 bit here.
TEST(crew, narrow_pages_with_divided_prompts) {
  for (const KvPolicyOptions& options : {direct(8, 8), direct(4, 8), progressive()}) {
    expect_like_one_process("f16", {.sequence = 2}, 400, 300, policy_of(options), 1.0 / 8);
    expect_like_one_process("f16", {.tensor = 2, .sequence = 2}, 420, 256, policy_of(options),
                            1.0 / 8);
  }
}

// Whole pieces that are never divided are the same arithmetic in each team.
TEST(crew, narrow_pages_of_short_pieces_in_every_team) {
  expect_like_one_process("f16", {.sequence = 2}, 400, 100, policy_of(direct(4, 4)), kNarrowBound);
}

TEST(crew, two_runs_give_the_same_bits) {
  const std::vector<Token> prompt = prompt_of(300);
  std::vector<Answer> answers(2);
  for (Answer& answer : answers)
    with_crew("q8_0", {.tensor = 2, .sequence = 2},
              [&](const auto& model) { answer = greedy(*model, prompt, 300, 3); });
  EXPECT_EQ(answers[0].logits, answers[1].logits);
}

// On all ranks at once, as often as one likes: the bits stay, and nothing is tuned while it is off.
TEST(crew, overlap_is_switched_while_it_works) {
  const std::vector<Token> prompt = prompt_of(200);
  const auto alone = whole_model("q8_0");
  parallel::set_overlap(*alone, false);  // nobody to tell
  comm::run_thread_ranks(2, [&](const Communicator& ranks) {
    const auto crew = parallel::make_crew(ranks, {.tensor = 2});
    auto share = models::load_language_model(formats::open_checkpoint(model_file("q8_0")), CoreSet(),
                                             {}, models::HeadLoading::kNow, nullptr, {}, crew->team);
    if (ranks.rank() != 0) {
      KvCopies copies(*share, crew->row());
      return parallel::follow(*crew, *share, copies, CoreSet());
    }
    const auto model = parallel::lead(crew, std::move(share));
    const auto* const team = dynamic_cast<parallel::flash_overlap::OverlappedTeam*>(crew->team.get());
    ASSERT_NE(team, nullptr);
    std::vector<Answer> answers;
    for (const bool on : {false, true, false, true}) {
      parallel::set_overlap(*model, on);
      answers.push_back(greedy(*model, prompt, 200, 2));
      EXPECT_EQ(team->tuned().empty(), answers.size() == 1);
      EXPECT_EQ(answers.back().logits, answers.front().logits);
    }
  });
}

// Requests that share prefixes, come and go: blocks are shared, copied and used again, on all ranks
// alike.
TEST(crew, many_requests_with_common_prefixes_answer_as_in_one_process) {
  const auto run = [](const std::shared_ptr<const LanguageModel>& model, size_t capacity = 512,
                      const std::shared_ptr<const KvPolicy>& policy = nullptr) {
    PlainDecoderOptions options;
    options.capacity_tokens = capacity;
    options.kv_policy = policy;
    const auto decoder = make_plain_decoder(model, options, CoreSet());
    std::map<RequestId, std::vector<Token>> answers;
    for (RequestId id = 0; id < 6; ++id) {
      DecodeRequest request;
      request.prompt = prompt_of(40 + 3 * id);  // begins as the one before
      if (id % 2 == 1) request.prompt.back() = 7;
      request.sampling.temperature = 0;
      request.max_tokens = 30;
      decoder->start(id, request);
      std::vector<RequestId> ended;
      for (int step = 0; step < 20; ++step)
        for (const DecodedToken& token : decoder->step({.max_prompt_tokens = 24})) {
          answers[token.request].push_back(token.sampled.token);
          if (token.last) ended.push_back(token.request);
        }
      for (const RequestId e : ended) decoder->finish(e);
    }
    return answers;
  };
  const auto expected = run(whole_model("f16"));
  with_crew("f16", {.tensor = 2}, [&](const auto& model) { EXPECT_EQ(run(model), expected); });
  with_crew("f16", {.sequence = 2}, [&](const auto& model) { EXPECT_EQ(run(model), expected); });
  const auto narrow = policy_of(direct(8, 8));
  const auto expected_narrow = run(whole_model("f16"), 512, narrow);
  with_crew("f16", {.tensor = 2},
            [&](const auto& model) { EXPECT_EQ(run(model, 512, narrow), expected_narrow); });
}

// Room that is found by narrowing others' pages, request after request: ranks do it alike (they would
// end at the first one that finds room where rank 0 found none).
TEST(crew, pressure_narrows_on_all_ranks) {
  KvPolicyOptions options = direct(4, 4);
  options.mode = KvMode::kPressure;
  const auto policy = policy_of(options);
  const auto run = [&](const std::shared_ptr<const LanguageModel>& model, size_t& steps) {
    PlainDecoderOptions how;
    how.capacity_tokens = 1184;  // three requests of 450 tokens in 16 bit would want 1440
    how.kv_policy = policy;
    const auto decoder = make_plain_decoder(model, how, CoreSet());
    std::map<RequestId, std::vector<Token>> answers;
    for (RequestId id = 0; id < 3; ++id) {
      DecodeRequest request;
      request.prompt = prompt_of(430);
      request.prompt[0] = static_cast<Token>(id + 1);
      request.sampling.temperature = 0;
      request.max_tokens = 20;
      decoder->start(id, request);
    }
    for (int step = 0; step < 80; ++step)
      for (const DecodedToken& token : decoder->step({.max_prompt_tokens = 128}))
        answers[token.request].push_back(token.sampled.token);
    const KvUsage usage = decoder->kv_usage();
    steps = usage.code_bytes[1] + usage.code_bytes[2];
    return answers;
  };
  size_t narrow = 0;
  const auto expected = run(whole_model("f16"), narrow);
  ASSERT_NE(narrow, 0u);
  ASSERT_EQ(expected.size(), 3u);
  size_t matching = 0, all = 0;
  with_crew("f16", {.tensor = 2}, [&](const auto& model) {
    for (const auto& [id, tokens] : run(model, narrow))
      for (size_t i = 0; i < tokens.size(); ++i, ++all)
        matching += tokens[i] == expected.at(id)[i];
  });
  EXPECT_NE(narrow, 0u);
  EXPECT_EQ(all, 60u);
  EXPECT_EQ(matching, all);
}

// Two caches of rank 0 in turn, as a server has one for its answers and one for embeddings: their
// sequences have the same numbers and their blocks too.
TEST(crew, caches_do_not_meet) {
  const std::vector<Token> prompt = prompt_of(120);
  const auto run = [&](const LanguageModel& model) {
    KvCache cache(KvCacheOptions{.num_layers = model.config().num_layers,
                                 .shape = model.kv_shape(),
                                 .capacity_tokens = 256});
    const auto workspace = model.make_workspace();
    const SequenceId sequence = cache.create();
    std::vector<float> logits(model.config().vocab_size);
    const auto read = [&](size_t first, size_t count) {
      EXPECT_TRUE(cache.reserve(sequence, count));
      const models::SequenceInput input{.sequence = sequence,
                                        .tokens = std::span(prompt).subspan(first, count),
                                        .first_position = first};
      model.forward({&input, 1}, cache, logits.data(), *workspace, CoreSet());
    };
    read(0, 100);
    const auto other = greedy(model, std::span(prompt).subspan(50, 40), 64, 2);  // a cache of its own
    read(100, 20);
    return std::make_pair(logits, other.logits);
  };
  const auto expected = run(*whole_model("f16"));
  const auto compare = [](const std::vector<float>& got, const std::vector<float>& wanted) {
    double largest = 0, difference = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(wanted[i])));
      difference = std::max(difference, std::abs(static_cast<double>(got[i] - wanted[i])));
    }
    EXPECT_LE(difference, bound("f16") * largest);
  };
  with_crew("f16", {.tensor = 2}, [&](const auto& model) {
    const auto got = run(*model);
    compare(got.first, expected.first);
    for (size_t i = 0; i < expected.second.size(); ++i) compare(got.second[i], expected.second[i]);
  });
}

// The head apart from the layers, packed when it is first asked for: as in one process, bit for bit
// what the forward pass gives.
TEST(crew, the_head_alone_gives_the_logits_of_the_pass) {
  for (const RankPlan& plan : {RankPlan{.tensor = 2}, RankPlan{.sequence = 2}})
    with_crew("q8_0", plan, [&](const auto& model) {
      const std::vector<Token> prompt = prompt_of(20);
      const models::LanguageModelConfig& c = model->config();
      KvCache cache(KvCacheOptions{
          .num_layers = c.num_layers, .shape = model->kv_shape(), .capacity_tokens = 64});
      const auto workspace = model->make_workspace();
      const SequenceId sequence = cache.create();
      ASSERT_TRUE(cache.reserve(sequence, prompt.size()));
      std::vector<float> logits(c.vocab_size), again(c.vocab_size), hidden(c.hidden_size);
      const models::SequenceInput input{
          .sequence = sequence, .tokens = prompt, .last_hidden = hidden.data()};
      model->forward({&input, 1}, cache, logits.data(), *workspace, CoreSet());
      model->head(hidden.data(), 1, again.data(), *workspace, CoreSet());
      EXPECT_EQ(again, logits);
      EXPECT_EQ(model->head_weight().shape, (Shape{c.vocab_size, c.hidden_size}));
    }, models::HeadLoading::kWhenNeeded);
}

TEST(crew, what_cannot_be_divided_is_refused) {
  const auto words = [](const RankPlan& plan, size_t ranks, const std::string& mix = "f16") {
    const std::filesystem::path path = model_file(mix);  // made before the ranks want it
    try {
      comm::run_thread_ranks(ranks, [&](const Communicator& all) {
        const auto crew = parallel::make_crew(all, plan);
        models::load_language_model(formats::open_checkpoint(path), CoreSet(), {},
                                    models::HeadLoading::kNow, nullptr, {}, crew->team);
      });
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_NE(words({.tensor = 3}, 3).find("2 heads of keys and values"), std::string::npos);
  EXPECT_NE(words({.tensor = 2}, 2, "q4_K").find("stored in blocks of 256 q4_K values"),
            std::string::npos);
  EXPECT_NE(words({.tensor = 2, .sequence = 2}, 3).find("is not the number of ranks, 3"),
            std::string::npos);
  EXPECT_NE(words({.sequence = 2, .exchange = "spiral"}, 2).find("Known are tasp"),
            std::string::npos);
  EXPECT_EQ(words({.tensor = 2}, 2), "nothing");
}

TEST(crew, fingerprints_tell_models_apart) {
  const auto of = [](const std::string& mix) {
    return parallel::fingerprint(*formats::open_checkpoint(model_file(mix)));
  };
  EXPECT_EQ(of("f16"), of("f16"));
  EXPECT_NE(of("f16").substr(of("f16").find('(')), of("q8_0").substr(of("q8_0").find('(')));
}

}  // namespace
}  // namespace weft::text
