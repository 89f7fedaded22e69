// The filters that a model's requests asked for lately: programs send the same schema with every
// request, and what one answer has found out about it helps the next.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "text/grammar/matcher.h"

namespace weft::text::grammar {

// Thread-safe. The tokenizer outlives it.
class FilterCache {
 public:
  static constexpr size_t kDefaultCapacity = 16;  // each up to the bounds of MatcherLimits
  explicit FilterCache(const formats::Tokenizer& tokenizer, size_t capacity = kDefaultCapacity)
      : tokenizer_(tokenizer), capacity_(capacity) {}

  // `name` says which grammar `compile` makes. Errors are compile()'s and make_grammar_filter's.
  std::shared_ptr<const TokenFilter> get(const std::string& name, formats::LeadingSpace leading,
                                         const std::function<Grammar()>& compile);

 private:
  using Filter = std::shared_ptr<const TokenFilter>;
  std::shared_ptr<const Vocabulary> vocabulary();
  Filter find(const std::string& key);

  const formats::Tokenizer& tokenizer_;
  const size_t capacity_;
  std::once_flag vocabulary_made_;
  std::shared_ptr<const Vocabulary> vocabulary_;       // made when first needed
  std::mutex mutex_;                                   // guards filters_
  std::list<std::pair<std::string, Filter>> filters_;  // the latest first
};

}  // namespace weft::text::grammar
