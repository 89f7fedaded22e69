// Which experts a token goes to (Megrez2, arXiv 2507.17728; DeepSeek-V3, arXiv 2412.19437, §2.1.2):
// scores are sigmoids, a bias that balances the load takes part in the choice alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace weft::models {

struct RouterShape {
  size_t num_experts = 0, experts_per_token = 0;
  size_t num_groups = 1, groups_used = 1;  // experts come from the best groups of neighbours alone
  bool normalise = true;                   // weights of a token sum to `scale`
  float scale = 1;
};

// logits (num_experts) of a token -> its experts in ascending order, and their weights; both hold
// experts_per_token. Of equal scores the lower expert is chosen. `scratch` is reused between calls.
// Logits that are no numbers choose some experts all the same.
void choose(const RouterShape& shape, const float* logits, const float* bias, uint32_t* ids,
            float* weights, std::vector<float>& scratch);

// What the T tokens of a pass chose in one layer, k each, and the same by expert: each expert that
// anybody chose has a run of rows, one for each token that did.
struct Choice {
  std::vector<uint32_t> ids;        // (T, k), ascending in each token
  std::vector<float> weights;       // (T, k)
  std::vector<uint32_t> used;       // experts that some token chose, the heaviest first
  std::vector<uint32_t> first_row;  // (num_experts + 1)
  std::vector<uint32_t> token_of;   // (T * k) by row
  std::vector<uint32_t> row_of;     // (T, k), the row of each choice

  void sort_by_expert(size_t num_experts, size_t experts_per_token);  // from ids and weights
  size_t num_rows(size_t expert) const { return first_row[expert + 1] - first_row[expert]; }

 private:
  std::vector<uint32_t> next_row_;
  std::vector<float> importance_;
};

}  // namespace weft::models
