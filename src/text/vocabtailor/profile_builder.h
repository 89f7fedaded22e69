// From a task's documents to its static set, in the paper's three stages: count
// in how many answers a token is needed that the prompt does not bring; keep the tokens of chosen
// scripts (optional); drop the rarest within a tolerance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::text {

using Token = int32_t;

struct TokenShare {
  Token token = 0;
  float probability = 0;
};

struct TaskDocument {
  std::vector<Token> prompt, answer;
  // What the model might have said in the answer's place: probabilities, summed over its steps. By
  // id.
  std::vector<TokenShare> plausible = {};
};

struct TokenCount {
  uint32_t id = 0;
  uint32_t df = 0;  // documents whose answer has it and whose prompt has not
  bool operator==(const TokenCount&) const = default;
};

// Stage 1. Control tokens do not count: every set has those it needs. Likeliest first (df descending,
// then id ascending).
std::vector<TokenCount> count_needed_tokens(std::span<const TaskDocument> documents,
                                            const formats::Tokenizer& tokenizer);

// Share of the answers' distinct tokens that their prompts bring.
double overlap_with_prompts(std::span<const TaskDocument> documents);

// Stage 2, for noisy corpora: keeps tokens whose text consists of ASCII and of letters of these
// scripts alone (latin, greek, cyrillic, cjk, arabic, devanagari, thai, hangul); pieces of characters
// go. kInvalidInput lists the known ones.
std::vector<TokenCount> keep_scripts(std::vector<TokenCount> counts,
                                     std::span<const std::string> scripts,
                                     const formats::Tokenizer& tokenizer);

// Stage 3. Drops the rarest while the sum of their df is at most tolerance * num_documents, so that
// a document lacks `tolerance` tokens on average at most. Of equal df the higher id goes first.
std::vector<TokenCount> drop_rarest(std::vector<TokenCount> counts, double tolerance,
                                    size_t num_documents);

}  // namespace weft::text
