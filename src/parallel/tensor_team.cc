#include "parallel/tensor_team.h"

#include <algorithm>
#include <vector>

#include "kernels/elementwise.h"

namespace weft::parallel {
namespace {

constexpr uint32_t kGatherTag = 1;

}  // namespace

void PlainTeam::multiply_add(const kernels::Linear& weight, kernels::Activations& x,
                             const float* bias, const models::Residual& residual,
                             const CoreSet& cores) {
  const size_t rows = x.num_rows(), outputs = weight.out_features();
  float* const product = product_.need(rows * outputs);
  const kernels::LinearCall call[] = {{&weight, product, outputs}};
  kernels::multiply(call, x, cores);
  ranks_.all_reduce({product, rows * outputs});
  const size_t grain = std::max<size_t>(1, (32 << 10) / outputs);
  cores.parallel_for(rows, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row) {
      float* const to = residual.rows + row * residual.stride;
      const float* const from = product + row * outputs;
      for (size_t i = 0; i < outputs; ++i) to[i] += bias == nullptr ? from[i] : from[i] + bias[i];
      if (const models::RowNorm& norm = residual.norm; norm.weight != nullptr)
        kernels::rms_norm(to, norm.weight, norm.epsilon, outputs,
                          norm.normed + row * residual.stride);
    }
  });
}

void PlainTeam::gather(const float* part, size_t num_rows, size_t columns, float* all) {
  const auto share_of = [&](size_t r) {
    return models::share(columns, models::kVocabularyUnit, r, size());
  };
  const models::Share mine = share_of(rank());
  if (rank() != 0)
    return ranks_.send(comm::bytes_of(std::span(part, num_rows * mine.size())), 0, kGatherTag);
  float* const parts = parts_.need(num_rows * columns);
  std::vector<comm::Request> requests;
  for (size_t r = 1; r < size(); ++r) {
    const models::Share s = share_of(r);
    requests.push_back(ranks_.ireceive(
        comm::writable_bytes_of(std::span(parts + num_rows * s.begin, num_rows * s.size())), r,
        kGatherTag));
  }
  for (size_t r = 0; r < size(); ++r) {
    const models::Share s = share_of(r);
    if (r != 0) requests[r - 1].wait();
    const float* const from = r == 0 ? part : parts + num_rows * s.begin;
    for (size_t row = 0; row < num_rows; ++row)
      std::copy_n(from + row * s.size(), s.size(), all + row * columns + s.begin);
  }
}

}  // namespace weft::parallel
