#include "text/grammar/matcher.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/grammar/automaton.h"

namespace weft::text::grammar {
namespace {

using State = Automaton::State;
using MaskPtr = std::shared_ptr<const TokenMask>;

// The masks that were asked for last.
class MaskCache {
 public:
  explicit MaskCache(size_t capacity) : capacity_(std::max<size_t>(capacity, 1)) {}

  MaskPtr find(uint64_t key) {
    const auto it = index_.find(key);
    if (it == index_.end()) return nullptr;
    masks_.splice(masks_.begin(), masks_, it->second);
    return it->second->second;
  }
  void add(uint64_t key, MaskPtr mask) {
    if (masks_.size() == capacity_) {
      index_.erase(masks_.back().first);
      masks_.pop_back();
    }
    masks_.emplace_front(key, std::move(mask));
    index_[key] = masks_.begin();
  }

 private:
  size_t capacity_;
  std::list<std::pair<uint64_t, MaskPtr>> masks_;  // the latest first
  std::unordered_map<uint64_t, std::list<std::pair<uint64_t, MaskPtr>>::iterator> index_;
};

// What the states of a filter find out together, until it has grown too large.
struct Known {
  Known(const std::shared_ptr<const Grammar>& grammar, size_t num_masks)
      : automaton(grammar), masks(num_masks) {}
  std::mutex mutex;  // guards the rest; of two, both are taken at once
  Automaton automaton;
  MaskCache masks;
};

// Shared by a filter and its states.
class Shared {
 public:
  Shared(Grammar grammar, std::shared_ptr<const Vocabulary> vocabulary,
         formats::LeadingSpace leading, const MatcherLimits& limits)
      : vocabulary(std::move(vocabulary)),
        strips_first_space(leading == formats::LeadingSpace::kAsDecoded &&
                           this->vocabulary->strips_first_space()),
        limits(limits),
        grammar_(std::make_shared<const Grammar>(std::move(grammar))),
        known_(fresh()) {}

  std::shared_ptr<Known> known() const {
    const std::lock_guard lock(mutex_);
    return known_;
  }
  // What to use in place of `old`, which is too large.
  std::shared_ptr<Known> renewed(const Known& old) {
    const std::lock_guard lock(mutex_);
    if (known_.get() == &old) known_ = fresh();
    return known_;
  }

  const std::shared_ptr<const Vocabulary> vocabulary;
  const bool strips_first_space;
  const MatcherLimits limits;

 private:
  std::shared_ptr<Known> fresh() const {
    const size_t mask_bytes = vocabulary->size() / 8 + 128;
    return std::make_shared<Known>(grammar_, limits.mask_cache_bytes / mask_bytes);
  }

  std::shared_ptr<const Grammar> grammar_;
  mutable std::mutex mutex_;  // guards known_
  std::shared_ptr<Known> known_;
};

class GrammarMatcher final : public TokenFilterState {
 public:
  explicit GrammarMatcher(std::shared_ptr<Shared> shared)
      : shared_(std::move(shared)),
        known_(shared_->known()),
        state_(known_->automaton.start()),
        first_(shared_->strips_first_space) {}

  const TokenMask& mask() override;
  void accept(Token token) override;
  bool can_end() const override;
  bool exhausted() const override;

 private:
  State advance(std::string_view bytes);
  MaskPtr make_mask();
  void walk(TokenMask& mask, size_t begin, size_t end);
  void renew_if_large();

  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Known> known_;
  State state_;
  bool first_;          // the next token loses its leading space
  bool ended_ = false;  // by an end token
  MaskPtr mask_;
  std::vector<State> path_;  // of a walk: the state at each depth
};

const TokenMask& GrammarMatcher::mask() {
  if (mask_) return *mask_;
  const std::lock_guard lock(known_->mutex);
  const uint64_t key = uint64_t{state_} << 2 | (first_ ? 2 : 0) | (ended_ ? 1 : 0);
  mask_ = known_->masks.find(key);
  if (mask_) return *mask_;
  mask_ = make_mask();
  known_->masks.add(key, mask_);
  return *mask_;
}

MaskPtr GrammarMatcher::make_mask() {
  const Vocabulary& vocabulary = *shared_->vocabulary;
  const auto mask = std::make_shared<TokenMask>(vocabulary.size());
  Automaton& automaton = known_->automaton;
  if (ended_ || automaton.can_end(state_))
    for (const Token token : vocabulary.end_tokens()) mask->allow(token);
  if (ended_) return mask;
  automaton.set_budget(shared_->limits.mask_steps);
  path_.resize(vocabulary.max_depth() + 1);
  path_[0] = state_;
  const auto nodes = vocabulary.nodes();
  if (!first_) {
    walk(*mask, 0, nodes.size());
    return mask;
  }
  for (size_t i = 0; i < nodes.size(); i = nodes[i].skip) {
    if (nodes[i].byte == ' ') {  // which nobody will see: what is below begins the answer
      for (const Token token : vocabulary.tokens_of(i)) mask->allow(token);
      path_[1] = state_;
      walk(*mask, i + 1, nodes[i].skip);
    } else {
      walk(*mask, i, nodes[i].skip);
    }
  }
  return mask;
}

// Allows the tokens of the nodes that the automaton can follow.
void GrammarMatcher::walk(TokenMask& mask, size_t begin, size_t end) {
  const Vocabulary& vocabulary = *shared_->vocabulary;
  const auto nodes = vocabulary.nodes();
  Automaton& automaton = known_->automaton;
  for (size_t i = begin; i < end;) {
    const Vocabulary::Node& node = nodes[i];
    const State state = automaton.next(path_[node.depth - 1u], node.byte);
    if (state == Automaton::kDead) {
      i = node.skip;
      continue;
    }
    path_[node.depth] = state;
    for (const Token token : vocabulary.tokens_of(i)) mask.allow(token);
    ++i;
  }
}

State GrammarMatcher::advance(std::string_view bytes) {
  if (first_ && bytes.starts_with(' ')) bytes.remove_prefix(1);
  State state = state_;
  known_->automaton.set_budget(shared_->limits.mask_steps);
  for (const char byte : bytes) state = known_->automaton.next(state, static_cast<uint8_t>(byte));
  return state;
}

void GrammarMatcher::accept(Token token) {
  const Vocabulary& vocabulary = *shared_->vocabulary;
  const bool known_token = token >= 0 && static_cast<size_t>(token) < vocabulary.size();
  if (known_token && vocabulary.is_end(token) && (ended_ || can_end())) {
    ended_ = true;
    mask_.reset();
    return;
  }
  State state = Automaton::kDead;
  if (known_token && !ended_ && !vocabulary.bytes(token).empty()) {
    const std::lock_guard lock(known_->mutex);
    state = advance(vocabulary.bytes(token));
  }
  if (state == Automaton::kDead)
    fail(ErrorKind::kInvalidInput, "token {} does not continue the answer as the grammar asks",
         token);
  state_ = state;
  first_ = false;
  mask_.reset();
  renew_if_large();
}

bool GrammarMatcher::can_end() const {
  const std::lock_guard lock(known_->mutex);
  return known_->automaton.can_end(state_);
}

bool GrammarMatcher::exhausted() const {
  if (!shared_->vocabulary->end_tokens().empty()) return false;
  const std::lock_guard lock(known_->mutex);
  return known_->automaton.can_end(state_) && !known_->automaton.can_go_on(state_);
}

void GrammarMatcher::renew_if_large() {
  {
    const std::lock_guard lock(known_->mutex);
    if (known_->automaton.bytes() <= shared_->limits.automaton_bytes) return;
  }
  const std::shared_ptr<Known> before = known_;  // outlives the lock on it
  const std::shared_ptr<Known> renewed = shared_->renewed(*before);
  const std::scoped_lock lock(before->mutex, renewed->mutex);
  renewed->automaton.set_budget(SIZE_MAX);  // no more than is there already
  state_ = renewed->automaton.import(before->automaton, state_);
  known_ = renewed;
}

class GrammarFilter final : public TokenFilter {
 public:
  explicit GrammarFilter(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  std::unique_ptr<TokenFilterState> start() const override {
    return std::make_unique<GrammarMatcher>(shared_);
  }

 private:
  std::shared_ptr<Shared> shared_;
};

}  // namespace

std::shared_ptr<const TokenFilter> make_grammar_filter(Grammar grammar,
                                                       std::shared_ptr<const Vocabulary> vocabulary,
                                                       formats::LeadingSpace leading,
                                                       MatcherLimits limits) {
  return std::make_shared<GrammarFilter>(
      std::make_shared<Shared>(std::move(grammar), std::move(vocabulary), leading, limits));
}

}  // namespace weft::text::grammar
