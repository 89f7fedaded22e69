#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>

namespace weft::trainer {

// "auto", "cpu" or "cuda". kUnsupported where there is none.
at::Device choose_device(const std::string& name);
// Of libtorch's loops and of ours: a wheel's libtorch may bring an OpenMP of its own.
void set_num_threads(size_t count);

}  // namespace weft::trainer
