#include "models/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace weft::models {
namespace {

constexpr float kOut = -std::numeric_limits<float>::infinity();

// The groups with the largest sums of their two best scores stay, the others get -infinity.
void keep_best_groups(const RouterShape& shape, std::vector<float>& scores) {
  const size_t size = shape.num_experts / shape.num_groups;
  std::vector<float> sums(shape.num_groups);
  for (size_t g = 0; g < shape.num_groups; ++g) {
    float best = kOut, second = kOut;
    for (size_t e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(best, scores[e]));
      best = std::max(best, scores[e]);
    }
    sums[g] = size == 1 ? best : best + second;
  }
  for (size_t g = 0; g < shape.num_groups; ++g) {
    size_t better = 0;
    for (size_t other = 0; other < shape.num_groups; ++other)
      better += sums[other] > sums[g] || (sums[other] == sums[g] && other < g) ? 1 : 0;
    if (better >= shape.groups_used)
      std::fill_n(scores.begin() + static_cast<ptrdiff_t>(g * size), size, kOut);
  }
}

}  // namespace

void choose(const RouterShape& shape, const float* logits, const float* bias, uint32_t* ids,
            float* weights, std::vector<float>& scratch) {
  const size_t n = shape.num_experts, k = shape.experts_per_token;
  scratch.resize(n);
  const auto score = [&](size_t e) { return 1 / (1 + std::exp(-logits[e])); };
  for (size_t e = 0; e < n; ++e) scratch[e] = score(e) + bias[e];
  if (shape.num_groups > 1) keep_best_groups(shape, scratch);
  for (size_t i = 0; i < k; ++i) {
    size_t best = n;
    for (size_t e = 0; e < n; ++e) {
      const bool taken = std::find(ids, ids + i, e) != ids + i;
      if (!taken && (best == n || scratch[e] > scratch[best])) best = e;
    }
    ids[i] = static_cast<uint32_t>(best);
  }
  std::sort(ids, ids + k);
  float sum = 0;
  for (size_t i = 0; i < k; ++i) sum += weights[i] = score(ids[i]);  // of the score, not the sum
  for (size_t i = 0; i < k; ++i) {
    if (shape.normalise) weights[i] /= sum + 1e-20f;
    weights[i] *= shape.scale;
  }
}

void Choice::sort_by_expert(size_t num_experts, size_t experts_per_token) {
  first_row.assign(num_experts + 1, 0);
  for (const uint32_t id : ids) ++first_row[id + 1];
  for (size_t e = 0; e < num_experts; ++e) first_row[e + 1] += first_row[e];
  next_row_.assign(first_row.begin(), first_row.end() - 1);
  importance_.assign(num_experts, 0);
  token_of.resize(ids.size());
  row_of.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint32_t row = next_row_[ids[i]]++;
    row_of[i] = row;
    token_of[row] = static_cast<uint32_t>(i / experts_per_token);
    importance_[ids[i]] += weights[i];
  }
  used.clear();
  for (uint32_t e = 0; e < num_experts; ++e)
    if (num_rows(e) != 0) used.push_back(e);
  std::sort(used.begin(), used.end(), [this](uint32_t a, uint32_t b) {
    return importance_[a] != importance_[b] ? importance_[a] > importance_[b] : a < b;
  });
}

}  // namespace weft::models
