// What is done to rank 0's KV cache, apart from what forward passes store, written down so that other
// ranks can do it to their copies (KvCopies): room taken and given back, prefixes kept and found. A
// cache is a deterministic thing, so copies of one size have the same room, the same prefixes and the
// same widths, each with its own heads' keys and values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "models/language_model.h"
#include "parallel/letter.h"
#include "parallel/shared_pages.h"
#include "text/kv_pool.h"

namespace weft::text {

class KvCache;

// Changes since the last take(), in their order.
class KvJournal {
 public:
  explicit KvJournal(const KvCacheOptions& options);  // begins with them

  // `usual` is the cache's policy; null: 16 bit.
  void created(size_t sequence, const KvPolicy* usual, const KvPolicy* policy);
  void created_from_prefix(size_t sequence, uint64_t scope, std::span<const Token> tokens);
  void forked(size_t sequence, size_t source, size_t num_tokens);
  void released(size_t sequence);
  void truncated(size_t sequence, size_t num_tokens);
  void reserved(size_t sequence, size_t num_tokens, size_t keep_free_tokens, bool found);
  // Pages of `tokens` from `first_page` on.
  void kept(size_t sequence, uint64_t scope, size_t first_page, std::span<const Token> tokens);

  std::vector<std::byte> take() { return out_.take(); }

 private:
  parallel::LetterWriter out_;
};

// Another rank's copies, for its share of the model.
class KvCopies final : public parallel::CacheCopies {
 public:
  // `part`: of sequences whose pages are divided, this rank's (KvCacheOptions).
  KvCopies(const models::LanguageModel& share, size_t part);
  ~KvCopies() override;
  parallel::SharedPages& apply(uint64_t id, std::span<const std::byte> changes) override;
  void drop(uint64_t id) override;

 private:
  std::shared_ptr<const KvPolicy> read_policy(parallel::LetterReader& in) const;
  std::unique_ptr<KvCache> make(parallel::LetterReader& in) const;

  const models::LanguageModel& share_;
  size_t part_;
  std::map<uint64_t, std::unique_ptr<KvCache>> caches_;
};

}  // namespace weft::text
