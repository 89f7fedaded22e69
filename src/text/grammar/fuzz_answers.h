// What the fuzzers of this room do with a grammar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/grammar/matcher.h"
#include "text/grammar/test_tokenizer.h"

namespace weft::text::grammar {

// A few short answers of random tokens, by a seed made of the input. Gives those that ended.
inline std::vector<std::string> make_fuzz_answers(Grammar grammar, const uint8_t* data,
                                                  size_t size) {
  static const TestTokenizer tokenizer([] {
    std::vector<std::string> pieces = byte_pieces();
    for (const char* const piece : {"{\"", "\":", "\", \"", "}}", "aaaaaaaa", "\xE8\xAA", "\x9E\"",
                                    " [", "12", "true", "\n  ", "\xF0\x9F\x98\x80"})
      pieces.emplace_back(piece);
    return pieces;
  }());
  static const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  const auto filter = make_grammar_filter(
      std::move(grammar), vocabulary, formats::LeadingSpace::kKept,
      {.mask_cache_bytes = 4096, .automaton_bytes = 1 << 20, .mask_steps = 1 << 16});
  std::mt19937 random(static_cast<uint32_t>(size));
  for (size_t i = 0; i < size; ++i) random.seed(static_cast<uint32_t>(random()) ^ data[i]);
  std::vector<std::string> ended;
  for (int i = 0; i < 3; ++i) {
    const auto state = filter->start();
    std::string answer;
    for (int step = 0; step < 24; ++step) {
      const TokenMask& mask = state->mask();
      std::vector<Token> allowed;
      for (size_t t = 0; t < tokenizer.vocab_size(); ++t)
        if (mask.allows(static_cast<Token>(t))) allowed.push_back(static_cast<Token>(t));
      if (allowed.empty()) break;  // too deep, where nothing else would do
      const Token token = allowed[random() % allowed.size()];
      if (tokenizer.is_end(token) != (state->can_end() && tokenizer.is_end(token))) std::abort();
      answer += tokenizer.piece(token, false);
      state->accept(token);
      if (tokenizer.is_end(token)) break;
    }
    if (state->can_end()) ended.push_back(answer);
  }
  return ended;
}

}  // namespace weft::text::grammar
