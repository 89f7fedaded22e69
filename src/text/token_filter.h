// What an answer may consist of: at each step, the tokens that are allowed next. A filter is shared
// by all requests that ask for the same; each request has a state of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "text/token_mask.h"

namespace weft::text {

using Token = int32_t;

class TokenFilterState {
 public:
  virtual ~TokenFilterState() = default;

  // The tokens that may come next; valid until the next call. kInvalidInput: the filter cannot say
  // within its bounds of work.
  virtual const TokenMask& mask() = 0;
  // kInvalidInput: a token that the mask did not allow. The state is then as before.
  virtual void accept(Token token) = 0;
  // Whether the answer so far is a whole one.
  virtual bool can_end() const = 0;
  // The answer is whole, nothing can follow, and the vocabulary has no token that would say so.
  virtual bool exhausted() const = 0;
};

// Immutable for its users and thread-safe. The states keep what they need of it alive.
class TokenFilter {
 public:
  virtual ~TokenFilter() = default;
  virtual std::unique_ptr<TokenFilterState> start() const = 0;
};

}  // namespace weft::text
