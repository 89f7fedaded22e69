// Copies of a cache, made from what its journal says.
#include "text/kv_journal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "text/kv_cache.h"

namespace weft::text {
namespace {

constexpr size_t kNumLayers = 3, kCapacity = 1024;
constexpr kernels::KvShape kShape{.num_kv_heads = 2, .head_dim = 16};

class ShareOfNothing final : public models::LanguageModel {
 public:
  ShareOfNothing() {
    config_.num_layers = kNumLayers;
    config_.num_kv_heads = kShape.num_kv_heads;
    config_.head_dim = kShape.head_dim;
  }
  const models::LanguageModelConfig& config() const override { return config_; }
  kernels::KvShape kv_shape() const override { return kShape; }
  size_t weight_bytes() const override { return 0; }
  std::unique_ptr<models::Workspace> make_workspace() const override { return nullptr; }
  void forward(std::span<const models::SequenceInput>, kernels::KvStore&, float*,
               models::Workspace&, const CoreSet&) const override {}

 private:
  models::LanguageModelConfig config_;
};

// A cache, its copy, and requests that come and go at random.
struct Twins {
  KvCacheOptions options;
  uint32_t seed;
  uint32_t draws = 0;
  KvCache cache;
  ShareOfNothing share;
  KvCopies copies{share, 1};
  struct Live {
    SequenceId id;
    std::vector<Token> tokens;
    size_t more = 0;  // room that was found for the next pass
  };
  std::vector<Live> live;

  Twins(const KvCacheOptions& how, uint32_t with_seed)
      : options(how), seed(with_seed), cache(how) {}

  size_t below(size_t limit) {
    return static_cast<size_t>(uniform(seed, 0, draws++) * static_cast<double>(limit)) % limit;
  }
  std::vector<Token> some_tokens(size_t count, Token first) const {
    std::vector<Token> out(count, first);  // few beginnings: prefixes are found again
    return out;
  }

  void change() {
    const size_t what = below(8);
    if (what < 3 && live.size() < 5) {
      const std::vector<Token> prompt = some_tokens(40 + below(200), static_cast<Token>(below(3)));
      Live next{what == 0 ? cache.create() : cache.create_from_prefix(7, prompt), {}};
      next.tokens.assign(prompt.begin(),
                         prompt.begin() + static_cast<ptrdiff_t>(cache.length(next.id)));
      live.push_back(next);
    } else if (what == 3 && !live.empty()) {
      const size_t at = below(live.size());
      cache.release(live[at].id);
      live.erase(live.begin() + static_cast<ptrdiff_t>(at));
    } else if (what == 4 && !live.empty()) {
      Live& l = live[below(live.size())];
      l.tokens.resize(cache.truncate(l.id, below(l.tokens.size() + 1)));
      l.more = 0;
    } else if (what == 5 && !live.empty() && live.size() < 5) {
      const size_t at = below(live.size()), count = below(live[at].tokens.size() + 1);
      Live next{cache.fork(live[at].id, count), live[at].tokens};
      next.tokens.resize(cache.length(next.id));
      live[at].more = 0;
      live.push_back(next);
    } else if (!live.empty()) {
      Live& l = live[below(live.size())];
      const size_t count = std::min(1 + below(90), cache.max_piece(l.id));
      if (cache.reserve(l.id, count, 64 * below(2))) l.more = count;
    }
  }

  // What a forward pass does on both.
  void pass() {
    auto& copy = dynamic_cast<KvCache&>(copies.apply(5, cache.take_changes()));
    const size_t width = kShape.num_kv_heads * kShape.head_dim;
    for (Live& l : live) {
      const size_t stored = l.tokens.size(), more = std::exchange(l.more, 0);
      std::vector<float> k, v;
      for (size_t i = 0; i < more * width; ++i) {
        k.push_back(static_cast<float>(uniform(seed, 1, draws++)) - 0.5f);
        v.push_back(static_cast<float>(uniform(seed, 2, draws)) - 0.5f);
      }
      for (KvCache* const each : {&cache, &copy})
        for (size_t layer = 0; layer < kNumLayers && more != 0; ++layer)
          for (size_t done = 0; done < more;) {
            const size_t end = each->piece_end(layer, l.id, stored + done);
            const size_t count = std::min(more - done, end - (stored + done));
            each->append(layer, l.id, stored + done, count, k.data() + done * width,
                         v.data() + done * width, width);
            done += count;
          }
      const Token first = l.tokens.empty() ? static_cast<Token>(below(3)) : l.tokens.front();
      l.tokens.resize(stored + more, first);
      if (more != 0) cache.keep_prefix(l.id, 7, l.tokens);
    }
    compare(dynamic_cast<KvCache&>(copies.apply(5, cache.take_changes())));
  }

  void compare(KvCache& copy) {
    ASSERT_EQ(copy.free_tokens(), cache.free_tokens());
    ASSERT_EQ(copy.audit(), "");
    ASSERT_EQ(copy.pool()->audit(), "");
    for (const Live& l : live) {
      ASSERT_EQ(copy.length(l.id), cache.length(l.id));
      ASSERT_TRUE(std::ranges::equal(copy.blocks(l.id), cache.blocks(l.id)));
      if (options.division != 1) continue;
      for (size_t layer = 0; layer < kNumLayers; ++layer) {
        ASSERT_EQ(copy.widths(layer, l.id), cache.widths(layer, l.id));
        const kernels::KvView a = cache.view(layer, l.id), b = copy.view(layer, l.id);
        const size_t full = a.length / kernels::kPageTokens;
        for (size_t page = 0; page < full; ++page) {
          ASSERT_EQ(a.pages[page].k_format, b.pages[page].k_format);
          ASSERT_EQ(std::memcmp(a.pages[page].head_keys(0), b.pages[page].head_keys(0),
                                kShape.head_bytes(a.pages[page].k_format)),
                    0);
        }
      }
    }
  }
};

TEST(kv_journal, copies_stay_alike) {
  const auto policy = [](KvMode mode, size_t blocks) {
    KvPolicyOptions options;
    options.mode = mode;
    options.widths = {4, 4};
    options.transform = kernels::KvTransform::kNone;
    options.max_length = kCapacity;
    const size_t block_bytes = kNumLayers * kShape.page_bytes(kernels::KvFormat::kF16);
    options.budget_bytes = blocks * block_bytes;
    return std::make_shared<const KvPolicy>(options, kNumLayers, kShape);
  };
  for (const auto& its_policy :
       {std::shared_ptr<const KvPolicy>(), policy(KvMode::kDirect, 0), policy(KvMode::kPressure, 0),
        policy(KvMode::kProgressive, 14)})
    for (uint32_t seed = 0; seed < 12; ++seed) {
      SCOPED_TRACE(seed);
      KvCacheOptions options{
          .num_layers = kNumLayers, .shape = kShape, .capacity_tokens = kCapacity};
      options.policy = its_policy;
      Twins twins(options, seed);
      for (int round = 0; round < 60 && !HasFatalFailure(); ++round) {
        const size_t changes = 1 + twins.below(5);
        for (size_t i = 0; i < changes; ++i) twins.change();
        twins.pass();
      }
    }
}

TEST(kv_journal, copies_of_divided_caches_stay_alike) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    KvCacheOptions options{.num_layers = kNumLayers, .shape = kShape, .capacity_tokens = kCapacity};
    options.division = 2;
    Twins twins(options, seed);
    for (int round = 0; round < 60 && !HasFatalFailure(); ++round) {
      const size_t changes = 1 + twins.below(5);
      for (size_t i = 0; i < changes; ++i) twins.change();
      twins.pass();
    }
  }
}

// Half of the pages, in runs of 16 blocks; room that is given back is used again.
TEST(kv_journal, divided_pages_take_half_of_the_memory) {
  const size_t block_bytes = kNumLayers * kShape.page_bytes(kernels::KvFormat::kF16);
  KvCacheOptions options{.num_layers = kNumLayers, .shape = kShape, .capacity_tokens = 4096};
  options.division = 2;
  for (options.part = 0; options.part < 2; ++options.part) {
    KvCache cache(options);
    EXPECT_EQ(cache.pool()->held_bytes(), 0u);
    for (int again = 0; again < 3; ++again) {
      const SequenceId id = cache.create();
      ASSERT_TRUE(cache.reserve(id, 2000));  // 63 pages: 32 of them, or 31
      EXPECT_EQ(cache.pool()->held_bytes(), 32 * block_bytes);
      cache.release(id);
    }
    const SequenceId id = cache.create();
    ASSERT_TRUE(cache.reserve(id, 4096));
    EXPECT_EQ(cache.pool()->held_bytes(), 64 * block_bytes);
    for (size_t page = 0; page < 128; ++page)
      EXPECT_EQ(cache.reserved(1, id)[page].data != nullptr, page % 2 == options.part);
  }
}

TEST(kv_journal, a_cache_with_widths_of_its_own_for_one_request) {
  KvCacheOptions options{.num_layers = kNumLayers, .shape = kShape, .capacity_tokens = kCapacity};
  KvPolicyOptions narrow;
  narrow.mode = KvMode::kDirect;
  narrow.widths = {8, 2};
  narrow.transform = kernels::KvTransform::kNone;
  Twins twins(options, 3);
  const SequenceId id =
      twins.cache.create(std::make_shared<const KvPolicy>(narrow, kNumLayers, kShape));
  twins.live.push_back({id, {}});
  ASSERT_TRUE(twins.cache.reserve(id, 500));
  twins.live.back().more = 500;
  twins.pass();
  EXPECT_EQ(twins.cache.widths(0, id), (KvWidths{8, 2}));
}

}  // namespace
}  // namespace weft::text
