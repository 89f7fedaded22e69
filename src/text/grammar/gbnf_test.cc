// GBNF: what grammars of llama.cpp's kind match, and what is said of those that are wrong.
#include "text/grammar/gbnf.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/grammar/automaton.h"

namespace weft::text::grammar {
namespace {

enum class Fit { kNo, kBeginning, kWhole };

Fit fit(Automaton& automaton, std::string_view text) {
  Automaton::State state = automaton.start();
  for (const char c : text) state = automaton.next(state, static_cast<uint8_t>(c));
  if (state == Automaton::kDead) return Fit::kNo;
  return automaton.can_end(state) ? Fit::kWhole : Fit::kBeginning;
}

Automaton compile(std::string_view gbnf) {
  return Automaton(std::make_shared<const Grammar>(parse_gbnf(gbnf)));
}

void expect_fits(std::string_view gbnf, const std::vector<std::string>& whole,
                 const std::vector<std::string>& beginnings, const std::vector<std::string>& not_) {
  Automaton automaton = compile(gbnf);
  for (const auto& text : whole) EXPECT_EQ(fit(automaton, text), Fit::kWhole) << text;
  for (const auto& text : beginnings) EXPECT_EQ(fit(automaton, text), Fit::kBeginning) << text;
  for (const auto& text : not_) EXPECT_EQ(fit(automaton, text), Fit::kNo) << text;
}

std::string error_of(std::string_view gbnf, const GbnfLimits& limits = {}) {
  try {
    parse_gbnf(gbnf, limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
    return error.what();
  }
  return "none";
}

constexpr std::string_view kJson = R"(
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
)";

TEST(gbnf, llamas_json) {
  expect_fits(kJson, {"{}", R"({"a": [1, -2.5e3, {"b": null}], "ü": "\u00e9\n"})", "{ }\n  "},
              {"", "{", R"({"a)", R"({"a": tr)", R"({"a": [[[)", R"({"a": "\u00)", "{\"\xC3"},
              {"[", "{,", R"({"a" 1)", R"({"a": 01)", R"({"a": "\x)", "{}x", "{\"\n", "{\"\xFF"});
}

TEST(gbnf, llamas_arithmetic) {
  expect_fits(R"GBNF(
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
)GBNF",
              {"1+2=3\n", "(a1 *(b -2)) /c = x\n", "a=b\n\n", "1=2\n3=4\n"}, {"", "((1", "1+2=3"},
              {"=", "1++", "1=2\n)", "A"});
}

TEST(gbnf, llamas_chess_and_list) {
  expect_fits(R"(
root   ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move   ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn   ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
)",
              {"1. e4 e5\n2. Nf3 Nc6\n", "1. e4 e5\n2. Qh5+ O-O-O#\n3. Nbxd2 exd5\n"},
              {"1. e4 e5\n", "1. N", "1. O-O"}, {"2.", "1. e9", "1. e4 e5\n0"});
  expect_fits(R"(root ::= item+
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n")",
              {"- a\n", "- é ⌘\n- 😀\n"}, {"", "- a", "- \xE2\x8C"},
              {"-\n", "- \n", "- a\r", "- \u2028", "- \u0085"});
}

TEST(gbnf, repetitions) {
  expect_fits(R"(root ::= "ab"{2} [c]{1,} ("d" | "e"){0,2} "f"{3,3}?)",
              {"ababc", "ababccccde", "ababcfff", "ababceefff"}, {"abab", "ababcf"},
              {"abc", "ababcddd", "ababcffff"});
  expect_fits(R"(root ::= "a"{0} "b"{0,0} "c")", {"c"}, {""}, {"a", "b"});
  expect_fits(R"(root ::= "x"**)", {"", "xxxx"}, {}, {"y"});
  expect_fits(R"(root ::= "" | "a")", {"", "a"}, {}, {"aa"});
}

TEST(gbnf, characters_and_escapes) {
  expect_fits(R"(root ::= "\n\t\r\"\\\[\]\x41\u00e9\U0001F600" [\x61-\u0062\]\[\-^] .)",
              {"\n\t\r\"\\[]A\u00e9\U0001F600a\u20ac", "\n\t\r\"\\[]A\u00e9\U0001F600-z",
               "\n\t\r\"\\[]A\u00e9\U0001F600^\U0010FFFF"},
              {"\n\t\r\"\\[]A\xC3"}, {"\n\t\r\"\\[]A\u00e9\U0001F600c"});
  expect_fits("root ::= [a-] [^^]", {"ab", "--"}, {"a"}, {"b", "a^"});
  expect_fits("root ::= [^a]", {"b", "\n", "é"}, {"\xF4\x8F"},
              {"a", "\xED\xA0", "\xC0", "\xF4\x90"});
}

TEST(gbnf, layout) {
  expect_fits(
      "# first\nother-rule_1 ::= \"b\" # the end\r\nroot ::=\n \"a\" | # or\n other-rule_1\n"
      "   | (\n\"c\"\n\n|\n\"d\" # d\n)\n",
      {"a", "b", "c", "d"}, {""}, {"e"});
}

TEST(gbnf, unicode_classes_split_no_characters) {
  expect_fits("root ::= [\u4e00-\u9fff]+", {"\u4e00", "\u9fff\u8a9e"}, {"", "\u8a9e\xE4"},
              {"\xE3", "a", "\xE4\x7F", "\xEA"});
  expect_fits("root ::= [\u4e00-\u4e01]", {"\u4e00", "\u4e01"}, {"\xE4", "\xE4\xB8"},
              {"\xE4\xB9", "\xE4\xB8\x82", "\xE5"});
}

TEST(gbnf, right_recursion_and_empty_loops_are_fine) {
  expect_fits("root ::= (\"a\"* \"b\"?)*", {"", "abba", "bb", "aaa"}, {}, {"c"});
  expect_fits("root ::= a\na ::= \"x\" a | a2 | \"\"\na2 ::= a | \"y\"", {"", "xxx", "xy", "y"}, {},
              {"yx"});
  expect_fits("root ::= \"(\" root \")\" | \"\"", {"", "(())"}, {"(("}, {")", "())"});
}

TEST(gbnf, alternatives_that_never_end_are_as_if_not_there) {
  expect_fits(
      "root ::= \"a\" | \"b\" endless | [] | unused\nendless ::= \"c\" endless\n"
      "unused ::= endless | \"d\"",
      {"a", "d"}, {""}, {"b", "c"});
}

TEST(gbnf, errors_say_where) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no rule 'root'"},
      {"a ::= \"x\"", "no rule 'root'"},
      {"root ::= \"a\"\n\nx ::= y z\n", "line 3, column 7: rule 'y' is used but not defined"},
      {"root ::= \"a", "line 1, column 10: '\"' is missing"},
      {"root ::= \"a\n\"", "line 1, column 10: '\"' is missing"},
      {"root ::= [ab", "line 1, column 10: ']' is missing"},
      {"root ::= (\"a\" | \n(\"b\"", "line 2, column 1: ')' is missing"},
      {"root ::= \"a\")", "line 1, column 13: this fits nowhere"},
      {"root = \"a\"", "line 1, column 6: '::=' is missing after 'root'"},
      {"::= \"a\"", "line 1, column 1: a rule's name is missing here"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: rule 'root' is defined a second time"},
      {"root ::= * \"a\"", "line 1, column 10: '*' has nothing before it to repeat"},
      {"root ::= \"a\"{", "a number is missing after '{'"},
      {"root ::= \"a\"{2,1}", "repeats at least 2 and at most 1 times"},
      {"root ::= \"a\"{2;", "'}' is missing"},
      {"root ::= \"\\q\"", "line 1, column 11: unknown escape"},
      {"root ::= \"\\x4\"", "needs 2 hexadecimal digits"},
      {"root ::= \"\\U00110000\"", "no character U+110000"},
      {"root ::= [z-a]", "line 1, column 11: this range of characters ends before it begins"},
      {"root ::= \"\xFF\"", "line 1, column 11: this is not valid UTF-8"},
      {"root ::= \"a\" root", "never ends"},
      {"root ::= []", "never ends"},
      {"root ::= [\\uD800]", "never ends"},
      {"root ::= root \"a\" | \"b\"", "left-recursive at 'root'"},
      {"root ::= x \"a\" | \"b\"\nx ::= \"c\"? root", "left-recursive"},
      {"root ::= (root)? \"a\"", "left-recursive"},
  };
  for (const auto& [gbnf, wanted] : cases)
    EXPECT_NE(error_of(gbnf).find(wanted), std::string::npos) << gbnf << ": " << error_of(gbnf);
}

// Refused or quick: each of these would be slow or large without a bound.
TEST(gbnf, catastrophic_grammars) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_NE(error_of("root ::= \"a\"{0,100000}").find("too large"), std::string::npos);
  EXPECT_NE(error_of("root ::= \"a\"{99999999999999999999}").find("more than"), std::string::npos);
  EXPECT_NE(error_of("root ::= (\"a\"{1000}){1000}{1000}{1000}"), "");
  EXPECT_NE(error_of(std::string(1 << 20, ' ')).find("bytes"), std::string::npos);
  EXPECT_NE(error_of("root ::= " + std::string(100000, '(')).find("nested"), std::string::npos);

  std::string many = "root ::= \"0\"";
  for (int i = 1; i < 20000; ++i) many += "|\"" + std::to_string(i) + "\"";
  expect_fits(many, {"0", "19999", "777"}, {""}, {"20000", "a"});

  const std::vector<std::string> ambiguous = {
      "root ::= (\"a\"*)*",
      "root ::= ((((\"a\"*)*)*)*)* \"b\"",
      "root ::= (\"a\" | \"a\"){0,500}",
      "root ::= \"a\" root root | \"a\"",
      "root ::= \"a\" (x | y) | \"b\"\nx ::= root \"c\"\ny ::= root \"d\"",
      "root ::= \"a\" root? root? root? root?",
      // 2^20 ways through the rules before the first character.
      [] {
        std::string out = "root ::= r0 \"x\" | r0 \"y\"\n";
        for (int i = 0; i < 20; ++i) {
          const std::string n = std::to_string(i), m = std::to_string(i + 1);
          out += "r" + n + " ::= r" + m + " \"x\" | r" + m + " \"y\"\n";
        }
        return out + "r20 ::= \"a\"+\n";
      }(),
  };
  for (const std::string& gbnf : ambiguous) {
    Automaton automaton = compile(gbnf);
    automaton.set_budget(1 << 21);
    EXPECT_NE(fit(automaton, std::string(300, 'a')), Fit::kNo) << gbnf;
  }
  // What cannot be done within the budget ends in an error.
  try {
    Automaton automaton = compile("root ::= ((\"a\"{0,300}){0,300}){0,300}");
    automaton.set_budget(1 << 18);
    fit(automaton, std::string(3000, 'a'));
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("too ambiguous"), std::string::npos);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(automaton, nesting_stops_at_the_bound) {
  Automaton automaton = compile("root ::= \"(\" root \")\" | \"\"");
  const std::string deepest(Automaton::kMaxDepth, '(');
  EXPECT_EQ(fit(automaton, deepest), Fit::kBeginning);
  EXPECT_EQ(fit(automaton, deepest + "(("), Fit::kNo);
  EXPECT_EQ(fit(automaton, deepest + std::string(deepest.size(), ')')), Fit::kWhole);
}

TEST(automaton, states_move_to_another) {
  const auto grammar = std::make_shared<const Grammar>(parse_gbnf(kJson));
  Automaton a(grammar), b(grammar);
  for (const std::string_view text : {"{\"a\": [[{\"b", "{\"\xE8\xAA", "{}", "{\"a\": 1"}) {
    Automaton::State state = a.start();
    for (const char c : text) state = a.next(state, static_cast<uint8_t>(c));
    const Automaton::State copy = b.import(a, state);
    EXPECT_EQ(a.can_end(state), b.can_end(copy));
    for (int byte = 0; byte < 256; ++byte)
      EXPECT_EQ(a.next(state, static_cast<uint8_t>(byte)) != Automaton::kDead,
                b.next(copy, static_cast<uint8_t>(byte)) != Automaton::kDead)
          << text << " " << byte;
  }
}

}  // namespace
}  // namespace weft::text::grammar
