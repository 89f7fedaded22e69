// Replays the fuzzers' corpus (tests/data/fuzz) and some thousand mutations of it, so that plain
// test runs cover the parsers too. Under a sanitizer this is where bad reads show.
#include "formats/parser_fuzz.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <vector>

#include "base/file.h"

namespace weft::formats {
namespace {

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> corpus(const char* name) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::filesystem::path(WEFT_SOURCE_DIR) / "tests/data/fuzz" / name))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> out;
  for (const auto& path : paths) {
    const std::string bytes = read_file(path);
    out.emplace_back(bytes.begin(), bytes.end());
  }
  return out;
}

// One to four of: a byte changed, a number of 1 to 8 bytes replaced by an interesting one, a piece
// removed, a piece repeated, the end cut off.
Bytes mutate(Bytes bytes, std::mt19937& random) {
  constexpr uint64_t kInteresting[] = {0,
                                       1,
                                       0x7f,
                                       0xff,
                                       0xffff,
                                       1u << 31,
                                       ~0u,
                                       uint64_t{1} << 32,
                                       uint64_t{1} << 60,
                                       uint64_t{1} << 63,
                                       ~uint64_t{0}};
  const auto below = [&](size_t n) { return n == 0 ? 0 : random() % n; };
  for (size_t count = 1 + below(4); count > 0 && !bytes.empty(); --count) {
    const size_t at = below(bytes.size());
    const size_t length = std::min<size_t>(1 + below(16), bytes.size() - at);
    const auto here = bytes.begin() + static_cast<ptrdiff_t>(at);
    switch (below(5)) {
      case 0:
        bytes[at] = static_cast<uint8_t>(random());
        break;
      case 1: {
        const uint64_t value = kInteresting[below(std::size(kInteresting))];
        std::memcpy(bytes.data() + at, &value, std::min<size_t>(length, 8));
        break;
      }
      case 2:
        bytes.erase(here, here + static_cast<ptrdiff_t>(length));
        break;
      case 3: {
        const Bytes piece(here, here + static_cast<ptrdiff_t>(length));
        bytes.insert(here, piece.begin(), piece.end());
        break;
      }
      default:
        bytes.resize(at);
        break;
    }
  }
  return bytes;
}

using Parser = bool (*)(std::span<const uint8_t>);

void replay(const char* name, Parser parse) {
  constexpr unsigned kSeed = 20240607;
  std::mt19937 random(kSeed);
  const std::vector<Bytes> inputs = corpus(name);
  ASSERT_GE(inputs.size(), 3u);
  size_t accepted = 0;
  for (const Bytes& input : inputs) accepted += parse(input) ? 1 : 0;
  EXPECT_GE(accepted, 1u) << "the corpus holds good files";
  EXPECT_LT(accepted, inputs.size()) << "and bad ones";
  size_t refused = 0;
  for (size_t i = 0; i < 4000; ++i)
    refused += parse(mutate(inputs[i % inputs.size()], random)) ? 0 : 1;
  EXPECT_GT(refused, 1000u) << "seed " << kSeed;
}

TEST(fuzz, gguf_corpus_and_mutations) { replay("gguf", try_gguf); }
TEST(fuzz, safetensors_corpus_and_mutations) { replay("safetensors", try_safetensors); }

}  // namespace
}  // namespace weft::formats
