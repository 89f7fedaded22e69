// The instruction sets that kernels are compiled for. Include before any Highway header.
//
// On x86-64: AVX3_DL (AVX-512 with VNNI), AVX2 and SSE4, and the scalar set that Highway always
// adds. The others would only lengthen the build: no CPU in use has SSSE3 without SSE4, and AVX-512
// without VNNI runs the AVX2 kernels.
#pragma once

#if defined(__x86_64__)
#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3)
#endif
#include "hwy/detect_targets.h"
