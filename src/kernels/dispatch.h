// Highway's choice of a kernel, after WEFT_ISA or force_isa() has had its say:
//   WEFT_DISPATCH(RmsNorm)(x, weight, eps, n, out);
#pragma once

#include "kernels/isa.h"

#define WEFT_DISPATCH(kernel) (::weft::kernels::active_isa(), HWY_DYNAMIC_DISPATCH(kernel))
