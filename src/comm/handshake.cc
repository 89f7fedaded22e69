#include "comm/handshake.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace weft::comm {
namespace {

// The card never changes its size, so that every version can read every other's.
constexpr size_t kField = 120;
struct Card {
  char magic[8];
  char version[kField], model[kField], plan[kField];
};
static_assert(sizeof(Card) == 368);

void write(char (&to)[kField], const std::string& from) {
  std::memcpy(to, from.data(), std::min(from.size(), kField));
}
std::string read(const char (&from)[kField]) { return {from, strnlen(from, kField)}; }

}  // namespace

void shake_hands(const Communicator& ranks, const Introduction& mine) {
  std::vector<Card> cards(ranks.size());
  Card& card = cards[ranks.rank()];
  std::memcpy(card.magic, "WEFTRANK", 8);
  write(card.version, mine.version);
  write(card.model, mine.model);
  write(card.plan, mine.plan);
  std::vector<size_t> begins(ranks.size() + 1);
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * sizeof(Card);
  ranks.all_gather(writable_bytes_of(std::span(cards)), begins);

  for (size_t r = 1; r < cards.size(); ++r) {
    const auto differs = [&](const char(&a)[kField], const char(&b)[kField], const char* what,
                             const char* advice) {
      if (std::memcmp(a, b, kField) == 0) return;
      fail(ErrorKind::kInvalidInput, "rank {} on {} has {} '{}', rank 0 on {} has '{}'. {}", r,
           ranks.host(r), what, read(a), ranks.host(0), read(b), advice);
    };
    if (std::memcmp(cards[r].magic, cards[0].magic, sizeof cards[0].magic) != 0)
      fail(ErrorKind::kInvalidInput, "rank {} on {} is not this program", r, ranks.host(r));
    differs(cards[r].version, cards[0].version, "the version",
            "Install the same weft on all hosts.");
    differs(cards[r].model, cards[0].model, "the model", "Start all ranks with the same file.");
    differs(cards[r].plan, cards[0].plan, "the plan", "Start all ranks with the same options.");
  }
}

}  // namespace weft::comm
