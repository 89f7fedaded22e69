#include "formats/tokenizer_bpe.h"

#include <algorithm>
#include <bit>
#include <queue>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

constexpr uint32_t kNoRank = ~uint32_t{0};
// Up to here scanning all pairs for the lowest rank beats keeping a heap (words are mostly < 10
// bytes).
constexpr size_t kScanLimit = 48;

struct ByteLetters {
  char text[256][2];
  uint8_t length[256];
  std::array<int16_t, 0x180> byte_of;  // by code point, -1 if it is no letter of the alphabet
};

// GPT-2 keeps the printable Latin-1 characters and gives the other 68 bytes U+0100 and up, in
// order.
ByteLetters make_byte_letters() {
  ByteLetters letters{};
  letters.byte_of.fill(-1);
  char32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const char32_t code = printable ? byte : next++;
    std::string text;
    append_utf8(text, code);
    std::copy(text.begin(), text.end(), letters.text[byte]);
    letters.length[byte] = static_cast<uint8_t>(text.size());
    letters.byte_of[code] = static_cast<int16_t>(byte);
  }
  return letters;
}

const ByteLetters& byte_letters() {
  static const ByteLetters letters = make_byte_letters();
  return letters;
}

uint64_t token_pair(Token left, Token right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

struct Candidate {
  uint32_t rank;
  uint32_t left;  // position of its first token
  uint64_t pair;  // stale if these two tokens are there no more
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

bool is_concatenation(std::string_view text, const MergeTexts& merge) {
  return text.size() == merge.left.size() + merge.right.size() && text.starts_with(merge.left) &&
         text.ends_with(merge.right);
}

// Merges come mostly in the order of the tokens they make: the token made last (by another pair)
// and the one after it are compared first; the index, which misses the cache, is asked if that
// fails.
Token find_merged(const Vocabulary& vocabulary, const MergeTexts& merge, Token last) {
  for (const Token guess : {last + 1, last}) {
    if (vocabulary.contains(guess) && is_concatenation(vocabulary.text(guess), merge)) return guess;
  }
  return vocabulary.find(std::string(merge.left).append(merge.right));
}

}  // namespace

std::string_view byte_letter(uint8_t byte) {
  const ByteLetters& letters = byte_letters();
  return {letters.text[byte], letters.length[byte]};
}

std::string bytes_of_letters(std::string_view text) {
  const ByteLetters& letters = byte_letters();
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    const bool known = unit.valid && unit.code < letters.byte_of.size();
    if (!known || letters.byte_of[unit.code] < 0) return std::string(text);
    bytes += static_cast<char>(letters.byte_of[unit.code]);
    pos += unit.length;
  }
  return bytes;
}

uint64_t MergeTable::pair_of(uint64_t left_hash, uint64_t right_hash) {
  const unsigned __int128 product =
      static_cast<unsigned __int128>(left_hash ^ 0x9E3779B97F4A7C15u) *
      (right_hash ^ 0xE7037ED1A0B428DBu);
  const uint64_t pair = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  return pair == 0 ? 1 : pair;
}

MergeTable::MergeTable(size_t expected)
    : merges_(std::bit_ceil(std::max<size_t>(16, expected + expected / 2))) {}

void MergeTable::insert(Merge merge) {
  const size_t mask = merges_.size() - 1;
  for (size_t i = slot(merge.pair);; i = (i + 1) & mask) {
    if (merges_[i].pair == merge.pair) return;
    if (merges_[i].pair != 0) continue;
    merges_[i] = merge;
    return;
  }
}

const MergeTable::Merge* MergeTable::find(uint64_t pair) const {
  const size_t mask = merges_.size() - 1;
  for (size_t i = slot(pair);; i = (i + 1) & mask) {
    if (merges_[i].pair == pair) return &merges_[i];
    if (merges_[i].pair == 0) return nullptr;
  }
}

BpeModel::BpeModel(const Vocabulary& vocabulary, std::span<const MergeTexts> merges,
                   BpeOptions options)
    : vocabulary_(vocabulary), options_(options), merges_(merges.size()) {
  const bool bytes = options_.alphabet == BpeAlphabet::kBytes;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint8_t value = static_cast<uint8_t>(byte);
    byte_tokens_[byte] = bytes ? vocabulary.find(byte_letter(value)) : vocabulary.byte_token(value);
    // DeepSeek's vocabulary has added tokens like "À" that are spelled like a byte's letter.
    const bool added =
        byte_tokens_[byte] >= 0 && vocabulary.kind(byte_tokens_[byte]) == TokenKind::kUserDefined;
    if (bytes && added) byte_tokens_[byte] = -1;
  }
  for (uint32_t byte = 0; byte < 128; ++byte) {
    const char letter = static_cast<char>(byte);
    ascii_tokens_[byte] = vocabulary.find({&letter, 1});
  }
  load_merges(merges);
}

void BpeModel::load_merges(std::span<const MergeTexts> merges) {
  constexpr size_t kBlock = 32;  // slots asked for before the first of them is used
  uint64_t pairs[kBlock];
  Token last = -1;
  for (size_t begin = 0; begin < merges.size(); begin += kBlock) {
    const std::span<const MergeTexts> block =
        merges.subspan(begin, std::min(kBlock, merges.size() - begin));
    for (size_t i = 0; i < block.size(); ++i) {
      pairs[i] = MergeTable::pair_of(hash_text(block[i].left), hash_text(block[i].right));
      merges_.prefetch(pairs[i]);
    }
    for (size_t i = 0; i < block.size(); ++i) {
      last = find_merged(vocabulary_, block[i], last);
      if (last < 0) {
        fail(ErrorKind::kInvalidInput,
             "merge {} makes '{}{}', which is no token. The file is damaged or was converted "
             "wrongly: fetch or convert it again",
             begin + i, block[i].left, block[i].right);
      }
      merges_.insert({pairs[i], static_cast<uint32_t>(begin + i), last});
    }
  }
}

const MergeTable::Merge* BpeModel::find_merge(Token left, Token right) const {
  return merges_.find(
      MergeTable::pair_of(vocabulary_.text_hash(left), vocabulary_.text_hash(right)));
}

uint32_t BpeModel::rank_of(Token left, Token right) const {
  const MergeTable::Merge* merge = find_merge(left, right);
  return merge == nullptr ? kNoRank : merge->rank;
}

// Merges tokens[0, count) in place by looking for the lowest rank again and again; returns the
// count.
size_t BpeModel::merge_by_scanning(Token* tokens, size_t count) const {
  uint32_t ranks[kScanLimit];  // of (i, i + 1)
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_of(tokens[i], tokens[i + 1]);
  while (count > 1) {
    const size_t best = static_cast<size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[best] == kNoRank) break;
    tokens[best] = find_merge(tokens[best], tokens[best + 1])->merged;
    std::copy(tokens + best + 2, tokens + count, tokens + best + 1);
    if (best + 2 < count) std::copy(ranks + best + 2, ranks + count - 1, ranks + best + 1);
    --count;
    if (best + 1 < count) ranks[best] = rank_of(tokens[best], tokens[best + 1]);
    if (best > 0) ranks[best - 1] = rank_of(tokens[best - 1], tokens[best]);
  }
  return count;
}

// The same for long pieces, in O(n log n): a linked list of tokens and a heap of mergeable pairs.
size_t BpeModel::merge_by_heap(Token* tokens, size_t count) const {
  constexpr uint32_t kNone = ~uint32_t{0};
  std::vector<uint32_t> next(count), previous(count);
  std::vector<Candidate> initial;
  initial.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    previous[i] = i == 0 ? kNone : static_cast<uint32_t>(i - 1);
    next[i] = i + 1 == count ? kNone : static_cast<uint32_t>(i + 1);
    if (i + 1 == count) break;
    const uint32_t rank = rank_of(tokens[i], tokens[i + 1]);
    if (rank == kNoRank) continue;
    initial.push_back({rank, static_cast<uint32_t>(i), token_pair(tokens[i], tokens[i + 1])});
  }
  std::priority_queue heap(std::greater<Candidate>{}, std::move(initial));
  constexpr Token kGone = -1;
  const auto offer = [&](uint32_t left) {
    const uint32_t right = next[left];
    const uint32_t rank = rank_of(tokens[left], tokens[right]);
    if (rank != kNoRank) heap.push({rank, left, token_pair(tokens[left], tokens[right])});
  };
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    const uint32_t left = top.left, right = next[left];
    if (tokens[left] == kGone || right == kNone) continue;
    if (token_pair(tokens[left], tokens[right]) != top.pair) continue;
    tokens[left] = find_merge(tokens[left], tokens[right])->merged;
    tokens[right] = kGone;
    next[left] = next[right];
    if (next[left] != kNone) previous[next[left]] = left;
    if (previous[left] != kNone) offer(previous[left]);
    if (next[left] != kNone) offer(left);
  }
  return static_cast<size_t>(std::remove(tokens, tokens + count, kGone) - tokens);
}

Token BpeModel::whole_piece(std::string_view piece) const {
  if (piece.size() > vocabulary_.longest_text()) return -1;
  Token token;
  if (options_.alphabet == BpeAlphabet::kBytes) {
    std::string letters;
    for (const char byte : piece) letters += byte_letter(static_cast<uint8_t>(byte));
    token = vocabulary_.find(letters);
  } else {
    token = vocabulary_.find(piece);
  }
  return token >= 0 && vocabulary_.is_from_text(token) ? token : -1;
}

void BpeModel::start_with_characters(std::string_view piece, std::vector<Token>& out) const {
  bool after_unknown = false;
  for (size_t pos = 0; pos < piece.size();) {
    const Utf8Unit unit = read_utf8(piece, pos);
    const std::string_view character = piece.substr(pos, unit.length);
    pos += unit.length;
    const Token token = unit.code < 128 ? ascii_tokens_[unit.code] : vocabulary_.find(character);
    if (token >= 0) {
      out.push_back(token);
      after_unknown = false;
      continue;
    }
    const auto has_token = [&](char byte) { return byte_tokens_[static_cast<uint8_t>(byte)] >= 0; };
    if (options_.byte_fallback && std::all_of(character.begin(), character.end(), has_token)) {
      for (const char byte : character) out.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
      after_unknown = false;
    } else if (options_.unknown) {
      if (!after_unknown || !options_.fuse_unknown) out.push_back(*options_.unknown);
      after_unknown = true;
    }
  }
}

void BpeModel::start(std::string_view piece, std::vector<Token>& out) const {
  if (options_.alphabet == BpeAlphabet::kCharacters) return start_with_characters(piece, out);
  for (const char byte : piece) {
    const Token token = byte_tokens_[static_cast<uint8_t>(byte)];
    if (token >= 0) {
      out.push_back(token);
    } else if (options_.unknown) {
      out.push_back(*options_.unknown);
    }
  }
}

void BpeModel::encode(std::string_view piece, std::vector<Token>& out) const {
  if (options_.whole_words_first) {
    if (const Token token = whole_piece(piece); token >= 0) {
      out.push_back(token);
      return;
    }
  }
  const size_t begin = out.size();
  start(piece, out);
  Token* tokens = out.data() + begin;
  const size_t count = out.size() - begin;
  const size_t left =
      count <= kScanLimit ? merge_by_scanning(tokens, count) : merge_by_heap(tokens, count);
  out.resize(begin + left);
}

}  // namespace weft::formats
