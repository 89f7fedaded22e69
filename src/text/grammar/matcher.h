// Answers that a grammar allows: a TokenFilter whose masks are exact. A token is allowed if and
// only if the answer so far, with the token's bytes, is the beginning of a sentence of the grammar;
// end tokens are allowed exactly where the sentence is whole. Tokens may split characters.
//
// Exceptions: rules nested deeper than Automaton::kMaxDepth are not followed, and a grammar whose
// ambiguity takes more work than the bounds below ends the answer with an error.
#pragma once

#include <cstddef>
#include <memory>

#include "formats/tokenizer.h"
#include "text/grammar/grammar.h"
#include "text/grammar/vocabulary.h"
#include "text/token_filter.h"

namespace weft::text::grammar {

struct MatcherLimits {
  size_t mask_cache_bytes = size_t{4} << 20;  // of masks that were worked out, latest first
  size_t automaton_bytes = size_t{16} << 20;  // then it is built anew, from where the answers are
  size_t mask_steps = size_t{2} << 20;        // work for one mask, see Automaton::set_budget
};

// `leading`: whether the answer's first token loses its leading space before anyone reads it, where
// the vocabulary is such (see TokenStream). Shares what its states find out.
// kInvalidInput: a grammar too ambiguous to begin with.
std::shared_ptr<const TokenFilter> make_grammar_filter(
    Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary,
    formats::LeadingSpace leading = formats::LeadingSpace::kAsDecoded, MatcherLimits limits = {});

}  // namespace weft::text::grammar
