#include "parallel/tasp/rings.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"

namespace weft::parallel::tasp {
namespace {

constexpr size_t kMaxRuns = 8;  // of a walk cut by the search

bool is_prime(size_t n) {
  if (n < 2) return false;
  for (size_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return true;
}

// Empty, or what keeps `rings` from being n - 1 rings that use every link once.
std::string fault_of(const std::vector<Ring>& rings, size_t n) {
  if (rings.size() + 1 != n) return fmt::format("{} rings for {} ranks", rings.size(), n);
  std::vector<bool> used(n * n);
  for (const Ring& ring : rings) {
    std::vector<bool> seen(n);
    for (size_t i = 0; i < ring.size(); ++i) {
      const size_t from = ring[i], to = ring[(i + 1) % ring.size()];
      if (from >= n || to >= n || seen[from]) return fmt::format("a ring passes {} twice", from);
      seen[from] = true;
      if (used[from * n + to]) return fmt::format("two rings use the link from {} to {}", from, to);
      used[from * n + to] = true;
    }
    if (ring.size() != n) return fmt::format("a ring of {} of the {} ranks", ring.size(), n);
  }
  return "";
}

// Ring s goes s ranks ahead each time.
std::vector<Ring> circulant_rings(size_t prime) {
  std::vector<Ring> rings;
  for (size_t s = 1; s < prime; ++s) {
    Ring& ring = rings.emplace_back();
    for (size_t i = 0; i < prime; ++i) ring.push_back(static_cast<uint16_t>(i * s % prime));
  }
  return rings;
}

// Walecki's cycles in both directions, for odd m. Vertices 0 ... N - 1 with N = m - 1, and a = N.
// Cycle i is a, z_0 + i, z_1 + i, ..., all modulo N, where z is the zigzag 0, 1, -1, 2, -2, ...,
// whose successive differences are all distinct; so cycle i + N/2 is cycle i reversed.
struct Zigzag {
  size_t n;  // N
  size_t at(size_t j) const { return j % 2 == 1 ? (j + 1) / 2 : (n - j / 2) % n; }

  Ring cycle(size_t i) const {
    Ring ring{static_cast<uint16_t>(n)};
    for (size_t j = 0; j < n; ++j) ring.push_back(static_cast<uint16_t>((at(j) + i) % n));
    return ring;
  }
  std::vector<Ring> cycles() const {
    std::vector<Ring> rings;
    for (size_t i = 0; i < n; ++i) rings.push_back(cycle(i));
    return rings;
  }
  // Which cycle an arc belongs to.
  std::vector<size_t> start_of_difference() const {
    std::vector<size_t> start(n);
    for (size_t j = 0; j + 1 < n; ++j) start[(at(j + 1) + n - at(j)) % n] = at(j);
    return start;
  }
};

// An even number of ranks: the zigzag cycles of one rank fewer, with the new rank b put between the
// two ends of one arc of each. Those arcs make up a rainbow path (all ranks but b, an arc of every
// cycle), and b followed by that path is the last ring.
class EvenRings {
 public:
  explicit EvenRings(size_t num_ranks)
      : n_(num_ranks), zigzag_{num_ranks - 2}, start_(zigzag_.start_of_difference()) {}

  // The runs of the walk 0, d, 2d, ... between its cuts, and the lone vertex a, in the given order.
  Ring path(const RainbowCuts& c) const {
    const size_t n = zigzag_.n, runs = c.cuts.size();
    Ring path;
    for (const size_t run : c.order) {
      if (run == runs) {
        path.push_back(static_cast<uint16_t>(n));
        continue;
      }
      const size_t end = run + 1 < runs ? c.cuts[run + 1] : c.cuts[0] + n;
      for (size_t t = c.cuts[run] + 1; t <= end; ++t)
        path.push_back(static_cast<uint16_t>(t * c.stride % n));
    }
    return path;
  }

  // Whether path(c) has an arc of every cycle. The arcs of the uncut walk are of all cycles, so the
  // joints between runs must be of those cycles whose arcs were cut.
  bool is_rainbow(const RainbowCuts& c) const {
    const size_t n = zigzag_.n, runs = c.cuts.size();
    const auto begin = [&](size_t run) {
      return run == runs ? n : (c.cuts[run] + 1) * c.stride % n;
    };
    const auto end = [&](size_t run) {
      return run == runs ? n : c.cuts[(run + 1) % runs] * c.stride % n;
    };
    size_t cut[kMaxRuns], joined[kMaxRuns];
    for (size_t run = 0; run < runs; ++run) {
      cut[run] = cycle_of(c.cuts[run] * c.stride % n, begin(run));
      joined[run] = cycle_of(end(c.order[run]), begin(c.order[run + 1]));
    }
    return std::is_permutation(cut, cut + runs, joined);
  }

  std::vector<Ring> rings(const Ring& path) const {
    std::vector<Ring> rings = zigzag_.cycles();
    const auto b = static_cast<uint16_t>(n_ - 1);
    for (size_t i = 0; i + 1 < path.size(); ++i) {
      Ring& ring = rings[cycle_of(path[i], path[i + 1])];
      ring.insert(std::find(ring.begin(), ring.end(), path[i]) + 1, b);
    }
    Ring& last = rings.emplace_back(Ring{b});
    last.insert(last.end(), path.begin(), path.end());
    return rings;
  }

 private:
  size_t cycle_of(size_t x, size_t y) const {
    const size_t n = zigzag_.n;
    if (x == n) return y;                    // a > y
    if (y == n) return (x + n - n / 2) % n;  // x > a
    return (x + n - start_[(y + n - x) % n]) % n;
  }

  size_t n_;
  Zigzag zigzag_;
  std::vector<size_t> start_;
};

// Cuts for which path() is a rainbow path: two closed forms, and what the search has found for the
// other even n up to 66.
std::optional<RainbowCuts> known_cuts(size_t n) {
  struct Row {
    size_t ranks;
    RainbowCuts cuts;
  };
  static const Row kRows[] = {
      {8, {1, {0, 1, 4}, {0, 2, 1, 3}}},
      {10, {1, {0, 1, 2, 5}, {0, 4, 1, 3, 2}}},
      {12, {1, {0, 1, 5, 8}, {3, 2, 1, 4, 0}}},
      {18, {1, {0, 1, 9, 12, 14}, {3, 2, 0, 4, 1, 5}}},
      {20, {7, {0, 2, 4, 11}, {4, 1, 0, 3, 2}}},
      {22, {7, {0, 1, 8, 12}, {2, 1, 3, 4, 0}}},
      {28, {9, {0, 2, 13, 21}, {4, 2, 1, 0, 3}}},
      {30, {9, {0, 2, 15, 20}, {0, 4, 1, 3, 2}}},
      {32, {13, {0, 4, 8, 19}, {4, 3, 2, 1, 0}}},
      {38, {5, {0, 1, 9, 21, 33}, {1, 0, 5, 3, 2, 4}}},
      {40, {15, {0, 2, 9, 21}, {4, 1, 0, 3, 2}}},
      {42, {3, {0, 4, 15, 21, 26}, {5, 4, 2, 0, 3, 1}}},
      {48, {21, {0, 6, 12, 29}, {4, 3, 2, 1, 0}}},
      {50, {19, {0, 2, 9, 23}, {3, 2, 0, 4, 1}}},
      {52, {23, {0, 6, 12, 31}, {4, 1, 0, 3, 2}}},
      {58, {25, {0, 5, 10, 37}, {0, 4, 1, 3, 2}}},
      {60, {25, {0, 4, 29, 47}, {4, 2, 1, 0, 3}}},
      {62, {23, {0, 7, 27}, {2, 1, 0, 3}}},
  };
  if (n > 10 && n % 10 == 4) return RainbowCuts{5, {0, n / 10, 8 * (n / 10) + 1}, {1, 0, 3, 2}};
  if (n > 10 && n % 10 == 6) return RainbowCuts{5, {0, n / 10, 7 * (n / 10) + 3}, {0, 2, 3, 1}};
  for (const Row& row : kRows)
    if (row.ranks == n) return row.cuts;
  return std::nullopt;
}

std::vector<Ring> even_rings(size_t n) {
  const EvenRings even(n);
  if (const auto known = known_cuts(n)) return even.rings(even.path(*known));
  const std::optional<RainbowCuts> found = find_rainbow_cuts(n, 3);  // four take minutes
  if (!found)
    fail(ErrorKind::kUnsupported,
         "no rings are known for {} ranks. Use an odd number, or the direct exchange.", n);
  return even.rings(even.path(*found));
}

}  // namespace

std::optional<RainbowCuts> find_rainbow_cuts(size_t num_ranks, size_t max_runs) {
  WEFT_ASSERT(num_ranks >= 8 && num_ranks % 2 == 0 && max_runs <= kMaxRuns);
  const EvenRings even(num_ranks);
  const size_t n = num_ranks - 2;
  for (size_t runs = 3; runs <= max_runs; ++runs) {
    for (size_t stride = 1; stride < n; ++stride) {
      if (std::gcd(stride, n) != 1) continue;
      RainbowCuts c{stride, std::vector<size_t>(runs), std::vector<size_t>(runs + 1)};
      std::iota(c.cuts.begin(), c.cuts.end(), size_t{0});  // the first one stays 0
      while (true) {
        std::iota(c.order.begin(), c.order.end(), size_t{0});
        do {
          if (even.is_rainbow(c)) return c;
        } while (std::next_permutation(c.order.begin(), c.order.end()));
        size_t k = runs;  // the next choice of cuts in increasing order
        while (k > 1 && c.cuts[k - 1] == n - runs + k - 1) --k;
        if (k == 1) break;
        ++c.cuts[k - 1];
        for (size_t i = k; i < runs; ++i) c.cuts[i] = c.cuts[i - 1] + 1;
      }
    }
  }
  return std::nullopt;
}

std::vector<Ring> rings(size_t num_ranks) {
  if (num_ranks < 2) return {};
  if (num_ranks == 4 || num_ranks == 6)
    fail(ErrorKind::kUnsupported,
         "{} ranks do not fall into {} rings that share no link: two at most (of 3) for 4 ranks, "
         "four (of 5) for 6. Their pieces change rings from step to step instead.",
         num_ranks, num_ranks - 1);
  std::vector<Ring> rings;
  if (num_ranks == 2)
    rings = {{0, 1}};
  else if (is_prime(num_ranks))
    rings = circulant_rings(num_ranks);
  else if (num_ranks % 2 == 1)
    rings = Zigzag{num_ranks - 1}.cycles();
  else
    rings = even_rings(num_ranks);
  WEFT_ASSERT(fault_of(rings, num_ranks).empty());
  return rings;
}

std::vector<Ring> paths(size_t num_devices) {
  const size_t m = num_devices;
  if (m == 0) return {};
  if (m == 3 || m == 5)
    fail(ErrorKind::kUnsupported,
         "the links among {} devices do not fall into {} paths that begin and end once at each "
         "device",
         m, m);
  std::vector<Ring> paths;
  if (m % 2 == 0 || m == 1) {  // rows of the zigzag square
    for (size_t i = 0; i < m; ++i) {
      Ring& path = paths.emplace_back();
      for (size_t j = 0; j < m; ++j)
        path.push_back(static_cast<uint16_t>((i + Zigzag{m}.at(j)) % m));
    }
    return paths;
  }
  for (Ring ring : rings(m + 1)) {  // less the vertex m
    std::rotate(ring.begin(), std::find(ring.begin(), ring.end(), m), ring.end());
    paths.emplace_back(ring.begin() + 1, ring.end());
  }
  return paths;
}

std::vector<std::vector<Ring>> hops(size_t num_ranks) {
  WEFT_ASSERT(num_ranks == 4 || num_ranks == 6);
  // By piece and step: 4 ranks: the bits of the rank that flip; 6: how many ranks ahead.
  static constexpr uint16_t kFlips[3][3] = {{1, 3, 1}, {2, 1, 2}, {3, 2, 3}};
  static constexpr uint16_t kAhead[5][5] = {
      {1, 1, 1, 1, 1}, {2, 5, 3, 5, 2}, {3, 2, 2, 3, 4}, {4, 3, 4, 4, 5}, {5, 4, 5, 2, 3}};
  std::vector<std::vector<Ring>> hops(num_ranks - 1, std::vector<Ring>(num_ranks - 1));
  for (size_t step = 0; step + 1 < num_ranks; ++step)
    for (size_t piece = 0; piece + 1 < num_ranks; ++piece)
      for (size_t r = 0; r < num_ranks; ++r)
        hops[step][piece].push_back(static_cast<uint16_t>(
            num_ranks == 4 ? r ^ kFlips[piece][step] : (r + kAhead[piece][step]) % num_ranks));
  return hops;
}

}  // namespace weft::parallel::tasp
