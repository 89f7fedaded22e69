#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace weft::trainer {

// "auto", "cpu" or "cuda". kUnsupported where there is none.
at::Device choose_device(const std::string& name);

}  // namespace weft::trainer
