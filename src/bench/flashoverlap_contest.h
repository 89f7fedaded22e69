// One product of a rank's shard and the collective behind it, done in several ways on the same
// numbers. Every way is called by all ranks together and gives the seconds until the slowest is done.
#pragma once

#include <functional>
#include <vector>

#include "parallel/flash_overlap/trial.h"

namespace weft::bench {

struct ProductShape {
  const char* what;
  size_t rows, columns, features;  // of this rank's shard
};

class ProductContest {
 public:
  using Plan = parallel::flash_overlap::Plan;

  // Random Q8_0 weights and activations, other ones on every rank.
  ProductContest(const ProductShape& shape, const comm::Communicator& ranks, const CoreSet& cores);

  parallel::flash_overlap::OverlapCall call();
  parallel::flash_overlap::TileGrid grid() const;

  double product_s();
  double collective_s();  // an all-reduce of all values

  // ---- all-reduce, and onto the residual stream: result()
  double all_reduce();                  // one after the other
  double all_reduce_blocks(size_t count);  // row blocks: one is computed while the one before travels
  double all_reduce(const Plan& plan, parallel::flash_overlap::Trace* trace = nullptr);

  // ---- reduce-scatter, own rows onto the residual stream and through the norm behind it: result(),
  // rows of others as they were
  double reduce_scatter();
  double reduce_scatter(const Plan& plan);

  // ---- all-to-all: rows go to the ranks in turn; received() has mine by source and row
  double all_to_all();
  double all_to_all(std::span<const Plan> plans);

  // Reading the sums onto the residual stream and through the norm, by rows and through a plan's map.
  double read_rows();
  double read_map(const Plan& plan);

  const std::vector<float>& result() const { return out_; }
  const std::vector<float>& received() const { return received_; }

 private:
  double timed(const std::function<void()>& body);
  void multiply_rows(size_t begin, size_t end);
  void add_rows(size_t begin, size_t end);
  void add_rows_and_norm(size_t begin, size_t end);

  ProductShape shape_;
  const comm::Communicator& ranks_;
  const CoreSet& cores_;
  std::vector<float> x_, residual_, out_, values_, received_, normed_, norm_weight_;
  kernels::Linear weight_;
  kernels::Activations activations_, block_;
};

}  // namespace weft::bench
