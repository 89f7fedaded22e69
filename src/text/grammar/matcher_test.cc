// Masks are exact: compared, token by token, with a recogniser of beginnings that fills tables by
// the definition and knows nothing of stacks.
#include "text/grammar/matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/unicode.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/test_tokenizer.h"

namespace weft::text::grammar {
namespace {

// Characters of the random grammars and vocabularies. Those at odd places are in no class by name.
const std::u32string kChars = U"azbyé\u00ec語\u8a9f😀😁";

struct Item {
  int rule = -1;  // or
  std::u32string chars;
  bool negated = false;
  bool takes(char32_t c) const { return (chars.find(c) != std::u32string::npos) != negated; }
};
using Alternative = std::vector<Item>;
using RandomRule = std::vector<Alternative>;

// By definition: exact(r, i, j), rule r makes the characters i..j; begins(r, i), rule r makes a
// text that begins with all characters from i on. Both grow until nothing changes.
class Oracle {
 public:
  explicit Oracle(std::vector<RandomRule> rules) : rules_(std::move(rules)) {
    ends_.assign(rules_.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t r = 0; r < rules_.size(); ++r)
        for (const Alternative& alternative : rules_[r])
          if (!ends_[r] && can_end(alternative, 0)) changed = ends_[r] = true;
    }
  }

  // `partial`: bytes of one more character.
  bool begins(const std::u32string& text, const std::string& partial) {
    if (partial.empty()) return solve(text).begins;
    for (const char32_t c : kChars) {
      std::string bytes;
      formats::append_utf8(bytes, c);
      if (bytes.starts_with(partial) && solve(text + c).begins) return true;
    }
    // Any other character is like the next: in the complements alone.
    for (char filler = '\x80'; filler < '\xC0'; ++filler) {
      std::string bytes = partial;
      while (formats::is_incomplete_utf8(bytes)) bytes += filler;
      const formats::Utf8Unit unit = formats::read_utf8(bytes, 0);
      if (unit.valid && kChars.find(unit.code) == std::u32string::npos)
        return solve(text + unit.code).begins;
    }
    return false;
  }
  bool whole(const std::u32string& text) { return solve(text).whole; }

 private:
  struct Answer {
    bool begins, whole;
  };

  bool can_end(const Alternative& a, size_t from) const {
    for (size_t k = from; k < a.size(); ++k)
      if (a[k].rule >= 0 && !ends_[static_cast<size_t>(a[k].rule)]) return false;
    return true;
  }

  Answer solve(const std::u32string& text) {
    const auto known = known_.find(text);
    if (known != known_.end()) return known->second;
    const size_t n = text.size();
    std::vector<std::vector<std::vector<bool>>> exact(rules_.size(),
                                                      std::vector(n + 1, std::vector<bool>(n + 1)));
    std::vector<std::vector<bool>> begins(rules_.size(), std::vector<bool>(n + 1));
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t r = 0; r < rules_.size(); ++r) {
        for (const Alternative& a : rules_[r]) {
          for (size_t i = 0; i <= n; ++i) {
            std::vector<bool> at(n + 1);  // where the items so far can end
            at[i] = true;
            bool starts = false;
            for (size_t k = 0; k < a.size(); ++k) {
              std::vector<bool> next(n + 1);
              for (size_t j = i; j <= n; ++j) {
                if (!at[j]) continue;
                if (j == n && can_end(a, k)) starts = true;
                if (a[k].rule < 0) {
                  if (j < n && a[k].takes(text[j])) next[j + 1] = true;
                  continue;
                }
                const auto rule = static_cast<size_t>(a[k].rule);
                if (begins[rule][j] && can_end(a, k + 1)) starts = true;
                for (size_t e = j; e <= n; ++e)
                  if (exact[rule][j][e]) next[e] = true;
              }
              at = next;
            }
            if (at[n]) starts = true;
            for (size_t e = i; e <= n; ++e)
              if (at[e] && !exact[r][i][e]) changed = exact[r][i][e] = true;
            if (starts && !begins[r][i]) changed = begins[r][i] = true;
          }
        }
      }
    }
    return known_[text] = {begins[0][0], exact[0][0][n]};
  }

  std::vector<RandomRule> rules_;
  std::vector<bool> ends_;
  std::map<std::u32string, Answer> known_;
};

std::string utf8(const std::u32string& text) {
  std::string out;
  for (const char32_t c : text) formats::append_utf8(out, c);
  return out;
}

// A grammar as GBNF and, its operators replaced by rules, for the oracle.
struct RandomGrammar {
  std::string gbnf;
  std::vector<RandomRule> rules;
};

RandomGrammar random_grammar(std::mt19937& random) {
  const auto below = [&](size_t n) { return random() % n; };
  RandomGrammar out;
  const size_t num_rules = 1 + below(4);
  out.rules.resize(num_rules);
  for (size_t r = 0; r < num_rules; ++r) {
    out.gbnf += (r == 0 ? "root" : "r" + std::to_string(r)) + " ::= ";
    const size_t num_alternatives = 1 + below(3);
    for (size_t a = 0; a < num_alternatives; ++a) {
      if (a != 0) out.gbnf += " | ";
      Alternative alternative;
      for (size_t k = below(4); k > 0; --k) {
        Item item;
        if (below(3) == 0) {
          item.rule = static_cast<int>(below(num_rules));
          out.gbnf += item.rule == 0 ? "root" : "r" + std::to_string(item.rule);
        } else {
          for (size_t c = 1 + below(2); c > 0; --c) item.chars += kChars[2 * below(5)];
          item.negated = below(5) == 0;
          out.gbnf += (item.negated ? "[^" : "[") + utf8(item.chars) + "]";
        }
        const size_t op = below(8);
        if (op < 4) {
          const auto rule = static_cast<int>(out.rules.size());
          Item self;
          self.rule = rule;
          out.gbnf += "*+?{1,2}"[op];
          if (op == 3) out.gbnf += "1,2}";
          if (op == 0) out.rules.push_back({{}, {item, self}});
          if (op == 1) out.rules.push_back({{item}, {item, self}});
          if (op == 2) out.rules.push_back({{}, {item}});
          if (op == 3) out.rules.push_back({{item}, {item, item}});
          item = self;
        }
        alternative.push_back(item);
        out.gbnf += " ";
      }
      if (alternative.empty()) out.gbnf += "\"\"";
      out.rules[r].push_back(alternative);
    }
    out.gbnf += "\n";
  }
  return out;
}

// All bytes of the characters, and random pieces that begin and end anywhere within them.
std::vector<std::string> random_pieces(std::mt19937& random) {
  std::string all = utf8(kChars);
  std::vector<std::string> out;
  for (const char c : all)
    if (std::find(out.begin(), out.end(), std::string(1, c)) == out.end()) out.emplace_back(1, c);
  for (int i = 0; i < 60; ++i) {
    std::u32string text;
    for (int c = 0; c < 4; ++c) text += kChars[random() % kChars.size()];
    const std::string bytes = utf8(text);
    out.push_back(bytes.substr(random() % 4, 1 + random() % 6));
  }
  out.emplace_back();  // some tokens have no bytes
  return out;
}

// Splits into characters and the bytes of an incomplete one; nothing if the bytes are no UTF-8.
bool split(std::string_view bytes, std::u32string& text, std::string& partial) {
  text.clear();
  for (size_t at = 0; at < bytes.size();) {
    const formats::Utf8Unit unit = formats::read_utf8(bytes, at);
    if (!unit.valid) {
      partial = bytes.substr(at);
      return formats::is_incomplete_utf8(partial);
    }
    text += unit.code;
    at += unit.length;
  }
  partial.clear();
  return true;
}

TEST(grammar_matcher, masks_are_exact) {
  constexpr uint32_t kSeed = 20260711;
  size_t num_grammars = 0, num_allowed = 0, num_compared = 0;
  for (uint32_t round = 0; round < 400; ++round) {
    std::mt19937 random(kSeed + round);
    const RandomGrammar made = random_grammar(random);
    std::optional<Grammar> grammar;
    try {
      grammar = parse_gbnf(made.gbnf);
    } catch (const Error&) {
      continue;  // left-recursive or endless
    }
    ++num_grammars;
    const TestTokenizer tokenizer(random_pieces(random));
    const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
    const auto filter = make_grammar_filter(*std::move(grammar), vocabulary);
    Oracle oracle(made.rules);
    for (int walk = 0; walk < 2; ++walk) {
      const auto state = filter->start();
      std::string answer;
      std::u32string text;
      std::string partial;
      while (answer.size() < 12) {
        const TokenMask mask = state->mask();
        std::vector<Token> allowed;
        for (size_t i = 0; i < tokenizer.vocab_size(); ++i) {
          const auto token = static_cast<Token>(i);
          const std::string piece = tokenizer.piece(token, false);
          bool expected = !piece.empty() && split(answer + piece, text, partial) &&
                          oracle.begins(text, partial);
          if (tokenizer.is_end(token))
            expected = split(answer, text, partial) && partial.empty() && oracle.whole(text);
          ASSERT_EQ(mask.allows(token), expected)
              << "seed " << kSeed + round << ", after '" << answer << "', token '"
              << tokenizer.text(token) << "', grammar:\n"
              << made.gbnf;
          ++num_compared;
          if (expected && !tokenizer.is_end(token)) allowed.push_back(token);
        }
        num_allowed += allowed.size();
        if (allowed.empty()) break;
        const Token token = allowed[random() % allowed.size()];
        state->accept(token);
        answer += tokenizer.piece(token, false);
      }
    }
  }
  EXPECT_GT(num_grammars, 150u);
  EXPECT_GT(num_allowed, 10000u);
  EXPECT_LT(num_allowed, num_compared / 2);
}

Grammar gbnf(std::string_view text) { return parse_gbnf(text); }

TEST(grammar_matcher, end_tokens_come_where_the_sentence_is_whole) {
  const TestTokenizer tokenizer(byte_pieces(), 2);
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const auto state = make_grammar_filter(gbnf("root ::= \"a\" \"b\"?"), vocabulary)->start();
  EXPECT_FALSE(state->mask().allows(256));
  EXPECT_THROW(state->accept(256), Error);
  EXPECT_THROW(state->accept('b'), Error);
  EXPECT_THROW(state->accept(-1), Error);
  EXPECT_THROW(state->accept(258), Error);
  state->accept('a');
  EXPECT_TRUE(state->can_end() && state->mask().allows(256) && state->mask().allows(257));
  EXPECT_TRUE(state->mask().allows('b'));
  state->accept('b');
  for (Token token = 0; token < 256; ++token) EXPECT_FALSE(state->mask().allows(token));
  EXPECT_TRUE(state->mask().allows(256));
  EXPECT_FALSE(state->exhausted());  // an end token can say so
  state->accept(257);
  EXPECT_TRUE(state->mask().allows(256));
  EXPECT_FALSE(state->mask().allows('a'));
}

TEST(grammar_matcher, a_vocabulary_without_end_tokens_is_exhausted) {
  const TestTokenizer tokenizer(byte_pieces(), 0);
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const auto state = make_grammar_filter(gbnf("root ::= \"a\" \"b\"?"), vocabulary)->start();
  EXPECT_FALSE(state->exhausted());
  state->accept('a');
  EXPECT_FALSE(state->exhausted());
  state->accept('b');
  EXPECT_TRUE(state->exhausted());
}

TEST(grammar_matcher, a_leading_space_that_nobody_sees_is_allowed_once) {
  const TestTokenizer tokenizer({" ab", " ", "a", "ab", " b"}, 1, true);
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const auto allowed = [&](formats::LeadingSpace leading, std::vector<Token> so_far) {
    const auto state =
        make_grammar_filter(gbnf("root ::= \"ab\" | \"a b\""), vocabulary, leading)->start();
    for (const Token token : so_far) state->accept(token);
    std::vector<Token> out;
    for (Token token = 0; token < 6; ++token)
      if (state->mask().allows(token)) out.push_back(token);
    return out;
  };
  using formats::LeadingSpace;
  EXPECT_EQ(allowed(LeadingSpace::kAsDecoded, {}), (std::vector<Token>{0, 1, 2, 3}));
  EXPECT_EQ(allowed(LeadingSpace::kAsDecoded, {1}), (std::vector<Token>{2, 3}));
  EXPECT_EQ(allowed(LeadingSpace::kAsDecoded, {0}), (std::vector<Token>{5}));
  EXPECT_EQ(allowed(LeadingSpace::kAsDecoded, {2}), (std::vector<Token>{1, 4}));
  EXPECT_EQ(allowed(LeadingSpace::kKept, {}), (std::vector<Token>{2, 3}));
}

// The automaton is thrown away again and again; nobody notices.
TEST(grammar_matcher, renewing_changes_nothing) {
  const TestTokenizer tokenizer(byte_pieces());
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const std::string_view grammar =
      "root ::= \"[\" (root (\",\" root)*)? \"]\" | [a-zé]{1,4} | \"😀\"";
  const auto plain = make_grammar_filter(gbnf(grammar), vocabulary);
  const auto small = make_grammar_filter(gbnf(grammar), vocabulary, {},
                                         {.mask_cache_bytes = 1, .automaton_bytes = 3000});
  std::mt19937 random(7);
  const auto a = plain->start(), b = small->start(), c = small->start();
  for (int step = 0; step < 400; ++step) {
    ASSERT_EQ(a->mask(), b->mask()) << step;
    ASSERT_EQ(a->mask(), c->mask()) << step;
    std::vector<Token> allowed;
    for (Token token = 0; token < 256; ++token)
      if (a->mask().allows(token)) allowed.push_back(token);
    if (allowed.empty()) break;
    const Token token = allowed[random() % allowed.size()];
    for (auto* state : {a.get(), b.get(), c.get()}) state->accept(token);
  }
}

}  // namespace
}  // namespace weft::text::grammar
