#include "text/vocabtailor/vocab_profile.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "base/error.h"
#include "text/grammar/test_tokenizer.h"
#include "text/vocabtailor/profile_builder.h"
#include "text/vocabtailor/vocab_set.h"

namespace weft::text {
namespace {

const formats::Tokenizer& tokenizer() {
  static const grammar::TestTokenizer made = [] {
    std::vector<std::string> pieces;
    for (int i = 0; i < 40; ++i) pieces.push_back("w" + std::to_string(i));
    return grammar::TestTokenizer(pieces, 1);
  }();
  return made;
}

TEST(vocab_set, sorts_and_drops_repeats) {
  const VocabSet set(100, {70, 3, 3, 99, 0});
  EXPECT_EQ(std::vector<uint32_t>(set.ids().begin(), set.ids().end()),
            (std::vector<uint32_t>{0, 3, 70, 99}));
  EXPECT_TRUE(set.contains(99));
  EXPECT_FALSE(set.contains(98));
  EXPECT_FALSE(set.contains(100));
}

TEST(vocab_set, required_tokens_can_write_anything_and_end) {
  std::vector<std::string> pieces = grammar::byte_pieces();
  for (const char* piece : {"word", "  ", "\n\n", "123", "12a", " the"}) pieces.emplace_back(piece);
  const grammar::TestTokenizer bytes(pieces, 2);
  const std::vector<uint32_t> ids = required_tokens(bytes, "");
  const VocabSet set(bytes.vocab_size(), ids);
  EXPECT_EQ(set.size(), ids.size());
  for (Token byte = 0; byte < 256; ++byte) EXPECT_TRUE(set.contains(byte));
  EXPECT_FALSE(set.contains(256)) << "word";
  EXPECT_TRUE(set.contains(257) && set.contains(258) && set.contains(259));
  EXPECT_FALSE(set.contains(260) || set.contains(261));
  EXPECT_TRUE(set.contains(262) && set.contains(263)) << "both ends";
}

TEST(vocab_set, the_hash_tells_tokenizers_apart) {
  const grammar::TestTokenizer other({"w0", "w1"}, 1);
  EXPECT_EQ(tokenizer_hash(tokenizer()), tokenizer_hash(tokenizer()));
  EXPECT_NE(tokenizer_hash(tokenizer()), tokenizer_hash(other));
}

// w1 in three answers (once with it in the prompt too), w2 in two, w3 and w4 in one; the end token
// does not count, nor does a second occurrence.
std::vector<TaskDocument> corpus() {
  return {{.prompt = {10, 11}, .answer = {1, 2, 2, 40}},
          {.prompt = {1, 11}, .answer = {1, 2, 3}},
          {.prompt = {12}, .answer = {1, 4, 12}},
          {.prompt = {12}, .answer = {}},
          {.prompt = {5, 6}, .answer = {6, 5}}};
}

TEST(profile_builder, counts_what_prompts_do_not_bring) {
  const std::vector<TokenCount> counts = count_needed_tokens(corpus(), tokenizer());
  EXPECT_EQ(counts, (std::vector<TokenCount>{{1, 2}, {2, 2}, {3, 1}, {4, 1}}));
  // 3 + 3 + 3 + 0 + 2 distinct answer tokens, of which 0 + 1 + 1 + 0 + 2 stand in their prompts.
  EXPECT_DOUBLE_EQ(overlap_with_prompts(corpus()), 4.0 / 11);
}

TEST(profile_builder, drops_the_rarest_within_the_tolerance) {
  const std::vector<TokenCount> counts = count_needed_tokens(corpus(), tokenizer());
  const auto kept = [&](double tolerance) { return drop_rarest(counts, tolerance, 5).size(); };
  EXPECT_EQ(kept(0), 4u);
  EXPECT_EQ(kept(0.01), 4u);
  EXPECT_EQ(kept(0.2), 3u) << "a sum of 1 = 0.2 * 5";
  EXPECT_EQ(drop_rarest(counts, 0.2, 5).back().id, 3u) << "of a tie the higher id goes";
  EXPECT_EQ(kept(0.4), 2u);
  EXPECT_EQ(kept(1), 1u) << "1 + 1 + 2 of at most 5";
  EXPECT_EQ(kept(1.2), 0u);
  EXPECT_EQ(drop_rarest({}, 0.5, 0).size(), 0u);
}

TEST(profile_builder, what_is_dropped_stays_within_the_tolerance) {
  std::mt19937 random(9);
  for (int round = 0; round < 200; ++round) {
    std::vector<TokenCount> counts;
    for (uint32_t id = 0; id < 50; ++id) counts.push_back({id, 1 + static_cast<uint32_t>(random() % 9)});
    const double tolerance = 0.1 * static_cast<double>(random() % 30);
    const auto sum = [](const std::vector<TokenCount>& list) {
      return std::accumulate(list.begin(), list.end(), 0u,
                             [](uint32_t s, const TokenCount& c) { return s + c.df; });
    };
    const std::vector<TokenCount> kept = drop_rarest(counts, tolerance, 20);
    const uint32_t dropped = sum(counts) - sum(kept);
    ASSERT_LE(dropped, tolerance * 20);
    if (kept.empty()) continue;
    ASSERT_GT(dropped + kept.back().df, tolerance * 20) << "and no more could go";
  }
}

TEST(profile_builder, keeps_the_scripts_asked_for) {
  const grammar::TestTokenizer words({"plain", "naïve", "слово", "翻訳", "\xC3", "42%"}, 1);
  std::vector<TokenCount> counts;
  for (uint32_t id = 0; id < 6; ++id) counts.push_back({id, 1});
  const auto ids = [&](std::vector<std::string> scripts) {
    std::vector<uint32_t> out;
    for (const TokenCount& count : keep_scripts(counts, scripts, words)) out.push_back(count.id);
    return out;
  };
  EXPECT_EQ(ids({"latin"}), (std::vector<uint32_t>{0, 1, 5}));
  EXPECT_EQ(ids({"cyrillic", "cjk"}), (std::vector<uint32_t>{0, 2, 3, 5}));
  EXPECT_THROW(ids({"klingon"}), Error);
}

VocabProfile small_profile() {
  VocabProfile profile;
  profile.name = "small";
  profile.tokenizer = tokenizer_hash(tokenizer());
  profile.source = "a test";
  profile.vocab_size = 41;
  profile.documents = 5;
  profile.tolerance = 0.01;
  profile.ids = {1, 2, 30};
  profile.df = {3, 2, 1};
  profile.verify = {.least_top_probability = 0.25f, .most_entropy = 2.5f};
  profile.curve = {{.size = 3, .step_coverage = 0.5, .documents_without_miss = 0.25,
                    .mass_mean = 0.75, .mass_p1 = 0.125}};
  return profile;
}

TEST(vocab_profile, comes_back_as_it_was_written) {
  const VocabProfile profile = small_profile();
  const std::string json = to_json(profile);
  EXPECT_EQ(json, to_json(profile));
  const VocabProfile read = parse_profile(json, "p.json");
  EXPECT_EQ(to_json(read), json);
  EXPECT_EQ(read.ids, profile.ids);
  EXPECT_EQ(read.verify.least_top_probability, 0.25f);
  EXPECT_NO_THROW(check_profile(read, tokenizer(), 41, "model"));
  EXPECT_THROW(check_profile(read, tokenizer(), 42, "model"), Error);
}

TEST(vocab_profile, says_what_is_wrong_with_a_file) {
  const auto changed = [](const std::string& key, const std::string& value) {
    nlohmann::json json = nlohmann::json::parse(to_json(small_profile()));
    json[key] = nlohmann::json::parse(value);
    return json.dump();
  };
  const std::string whole = to_json(small_profile());
  const struct {
    std::string text, expected;
  } cases[] = {
      {"", "p.json"},
      {whole.substr(0, whole.size() / 2), "p.json"},
      {"[]", "is no vocabulary profile"},
      {"{}", "is no vocabulary profile"},
      {changed("format", "3"), "is no vocabulary profile"},
      {changed("version", "2"), "version 2"},
      {changed("tokenizer", "7"), "'tokenizer' must be a string"},
      {changed("ids", "[1, 2, 41]"), "'ids' has 41 at 2"},
      {changed("ids", "[-1, 2, 3]"), "'ids' has -1 at 0"},
      {changed("ids", "[1.5, 2, 3]"), "'ids' has 1.5 at 0"},
      {changed("ids", "[1, 1, 3]"), "must ascend"},
      {changed("ids", "[3, 2, 1]"), "must ascend"},
      {changed("ids", "{}"), "'ids' must be a list"},
      {changed("df", "[1]"), "'df' has 1 entries for 3 ids"},
      {changed("documents", "-4"), "'documents' must be"},
      {changed("tolerance", "\"much\""), "'tolerance' must be"},
      {changed("verify", "[]"), "'verify' must be an object"},
      {changed("curve", "[1]"), "'curve' must be"},
  };
  for (const auto& bad : cases) {
    try {
      parse_profile(bad.text, "p.json");
      ADD_FAILURE() << "accepted " << bad.text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(bad.expected), std::string::npos) << error.what();
    }
  }
  nlohmann::json empty = nlohmann::json::parse(whole);
  empty["ids"] = empty["df"] = nlohmann::json::array();
  EXPECT_TRUE(parse_profile(empty.dump(), "p.json").ids.empty()) << "the dynamic part alone";
}

}  // namespace
}  // namespace weft::text
