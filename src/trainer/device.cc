#include "trainer/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include "base/error.h"

namespace weft::trainer {

at::Device choose_device(const std::string& name) {
  const bool has_cuda = torch::cuda::is_available();
  if (name == "cuda" && !has_cuda)
    fail(
        ErrorKind::kUnsupported,
        "device: this libtorch finds no CUDA device. Use \"cpu\" or \"auto\", or build with a CUDA "
        "libtorch (docs/training.md).");
  const bool takes_it = name == "cuda" || (name == "auto" && has_cuda);
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 5)
  // cuDNN's attention makes a plan for each shape, some 0.1 s of it, and every batch brings new
  // ones.
  if (takes_it) at::globalContext().setSDPUseCuDNN(false);
#endif
  return takes_it ? at::Device(at::kCUDA) : at::Device(at::kCPU);
}

void set_num_threads(size_t count) {
  at::set_num_threads(static_cast<int>(count));
  omp_set_num_threads(static_cast<int>(count));
}

}  // namespace weft::trainer
