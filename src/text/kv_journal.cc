#include "text/kv_journal.h"

#include <utility>

#include "base/error.h"
#include "text/kv_cache.h"

namespace weft::text {
namespace {

using parallel::LetterReader;
using parallel::LetterWriter;

enum class Change : uint8_t {
  kCreated,
  kCreatedFromPrefix,
  kForked,
  kReleased,
  kTruncated,
  kReserved,
  kKept
};
enum class Widths : uint8_t { kPlain, kUsual, kOwn };

void put_policy(const KvPolicyOptions& o, LetterWriter& out) {
  out.put(o.mode);
  out.put(o.widths);
  out.put_counted(std::span<const KvWidths>(o.layer_widths));
  out.put_counted(std::span<const KvPolicyOptions::Sensitivity>(o.sensitivities));
  out.put<uint64_t>(o.budget_bytes);
  out.put<uint64_t>(o.max_length);
  out.put<uint8_t>(o.transform.has_value());
  out.put(o.transform.value_or(kernels::KvTransform::kNone));
  out.put<uint64_t>(o.smoothing.size());
  for (const std::vector<float>& factors : o.smoothing)
    out.put_counted(std::span<const float>(factors));
}

void change(KvCache& cache, const std::shared_ptr<const KvPolicy>& usual, Change what,
            size_t sequence, LetterReader& in, auto&& read_policy) {
  switch (what) {
    case Change::kCreated: {
      const auto widths = in.get<Widths>();
      cache.number_next(sequence);
      cache.create(widths == Widths::kUsual ? usual
                   : widths == Widths::kOwn ? read_policy(in)
                                            : nullptr);
      return;
    }
    case Change::kCreatedFromPrefix: {
      const auto scope = in.get<uint64_t>();
      const auto tokens = in.get_counted<Token>();
      cache.number_next(sequence);
      cache.create_from_prefix(scope, tokens);
      return;
    }
    case Change::kForked: {
      const size_t source = in.get<uint64_t>(), num_tokens = in.get<uint64_t>();
      cache.number_next(sequence);
      cache.fork(source, num_tokens);
      return;
    }
    case Change::kReleased:
      return cache.release(sequence);
    case Change::kTruncated:
      cache.truncate(sequence, in.get<uint64_t>());
      return;
    case Change::kReserved: {
      const size_t num_tokens = in.get<uint64_t>(), keep_free = in.get<uint64_t>();
      const bool expected = in.get<uint8_t>() != 0;
      const bool found = cache.reserve(sequence, num_tokens, keep_free);
      WEFT_ASSERT(found == expected);
      return;
    }
    case Change::kKept: {
      const auto scope = in.get<uint64_t>();
      const size_t before = in.get<uint64_t>();
      std::vector<Token> tokens = in.get_counted<Token>();
      tokens.insert(tokens.begin(), before, 0);  // kept before: not looked at
      return cache.keep_prefix(sequence, scope, tokens);
    }
  }
}

}  // namespace

KvJournal::KvJournal(const KvCacheOptions& options) {
  out_.put(options.format);
  out_.put<uint64_t>(options.capacity_tokens);
  out_.put<uint64_t>(options.division);
  out_.put<uint8_t>(options.policy != nullptr);
  if (options.policy != nullptr) put_policy(options.policy->options(), out_);
}

void KvJournal::created(size_t sequence, const KvPolicy* usual, const KvPolicy* policy) {
  out_.put(Change::kCreated);
  out_.put<uint64_t>(sequence);
  const Widths widths = policy == usual     ? Widths::kUsual
                        : policy == nullptr ? Widths::kPlain
                                            : Widths::kOwn;
  out_.put(widths);
  if (widths == Widths::kOwn) put_policy(policy->options(), out_);
}

void KvJournal::created_from_prefix(size_t sequence, uint64_t scope,
                                    std::span<const Token> tokens) {
  out_.put(Change::kCreatedFromPrefix);
  out_.put<uint64_t>(sequence);
  out_.put<uint64_t>(scope);
  out_.put_counted(tokens);
}

void KvJournal::forked(size_t sequence, size_t source, size_t num_tokens) {
  out_.put(Change::kForked);
  out_.put<uint64_t>(sequence);
  out_.put<uint64_t>(source);
  out_.put<uint64_t>(num_tokens);
}

void KvJournal::released(size_t sequence) {
  out_.put(Change::kReleased);
  out_.put<uint64_t>(sequence);
}

void KvJournal::truncated(size_t sequence, size_t num_tokens) {
  out_.put(Change::kTruncated);
  out_.put<uint64_t>(sequence);
  out_.put<uint64_t>(num_tokens);
}

void KvJournal::reserved(size_t sequence, size_t num_tokens, size_t keep_free_tokens,
                         bool found) {
  out_.put(Change::kReserved);
  out_.put<uint64_t>(sequence);
  out_.put<uint64_t>(num_tokens);
  out_.put<uint64_t>(keep_free_tokens);
  out_.put<uint8_t>(found);
}

void KvJournal::kept(size_t sequence, uint64_t scope, size_t first_page,
                     std::span<const Token> tokens) {
  const size_t before = first_page * kernels::kPageTokens;
  out_.put(Change::kKept);
  out_.put<uint64_t>(sequence);
  out_.put<uint64_t>(scope);
  out_.put<uint64_t>(before);
  out_.put_counted(tokens.subspan(before));
}

KvCopies::KvCopies(const models::LanguageModel& share, size_t part) : share_(share), part_(part) {}

KvCopies::~KvCopies() = default;

std::shared_ptr<const KvPolicy> KvCopies::read_policy(LetterReader& in) const {
  KvPolicyOptions o;
  o.mode = in.get<KvMode>();
  o.widths = in.get<KvWidths>();
  o.layer_widths = in.get_counted<KvWidths>();
  o.sensitivities = in.get_counted<KvPolicyOptions::Sensitivity>();
  o.budget_bytes = in.get<uint64_t>();
  o.max_length = in.get<uint64_t>();
  const bool has_transform = in.get<uint8_t>() != 0;
  const auto transform = in.get<kernels::KvTransform>();
  if (has_transform) o.transform = transform;
  o.smoothing.resize(in.get<uint64_t>());
  for (std::vector<float>& factors : o.smoothing) factors = in.get_counted<float>();
  // Budgets are for all heads, whoever has them: every rank narrows at the same places.
  const models::LanguageModelConfig& config = share_.config();
  return std::make_shared<KvPolicy>(o, config.num_layers,
                                    kernels::KvShape{.num_kv_heads = config.num_kv_heads,
                                                     .head_dim = config.head_dim});
}

std::unique_ptr<KvCache> KvCopies::make(LetterReader& in) const {
  KvCacheOptions options{.num_layers = share_.config().num_layers, .shape = share_.kv_shape()};
  options.format = in.get<kernels::KvFormat>();
  options.capacity_tokens = in.get<uint64_t>();
  options.division = in.get<uint64_t>();
  if (options.division != 1) options.part = part_;
  if (in.get<uint8_t>() != 0) options.policy = read_policy(in);
  return std::make_unique<KvCache>(options);
}

parallel::SharedPages& KvCopies::apply(uint64_t id, std::span<const std::byte> changes) {
  LetterReader in(changes);
  std::unique_ptr<KvCache>& cache = caches_[id];
  if (!cache) cache = make(in);
  while (!in.at_end()) {
    const auto what = in.get<Change>();
    const size_t sequence = in.get<uint64_t>();
    change(*cache, cache->pool()->options().policy, what, sequence, in,
           [this](LetterReader& from) { return read_policy(from); });
  }
  return *cache;
}

void KvCopies::drop(uint64_t id) { caches_.erase(id); }

}  // namespace weft::text
