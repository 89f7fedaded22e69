#include "text/grammar/filter_cache.h"

#include <algorithm>

namespace weft::text::grammar {

std::shared_ptr<const TokenFilter> FilterCache::get(const std::string& name,
                                                    formats::LeadingSpace leading,
                                                    const std::function<Grammar()>& compile) {
  const std::string key = (leading == formats::LeadingSpace::kKept ? "kept " : "") + name;
  if (Filter known = find(key)) return known;
  // Outside of the lock: two that ask at once make it twice, which does no harm.
  Filter made = make_grammar_filter(compile(), vocabulary(), leading);
  const std::lock_guard lock(mutex_);
  filters_.emplace_front(key, made);
  if (filters_.size() > capacity_) filters_.pop_back();
  return made;
}

FilterCache::Filter FilterCache::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto it = std::find_if(filters_.begin(), filters_.end(),
                               [&](const auto& entry) { return entry.first == key; });
  if (it == filters_.end()) return nullptr;
  filters_.splice(filters_.begin(), filters_, it);
  return it->second;
}

std::shared_ptr<const Vocabulary> FilterCache::vocabulary() {
  std::call_once(vocabulary_made_,
                 [this] { vocabulary_ = std::make_shared<const Vocabulary>(tokenizer_); });
  return vocabulary_;
}

}  // namespace weft::text::grammar
