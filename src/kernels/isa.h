// Which instruction set the kernels run on: chosen once from the CPU, or forced by the environment
// variable WEFT_ISA (avx512, avx2, portable) so that every path can be tested on one machine.
#pragma once

#include <string>
#include <vector>

namespace weft::kernels {

enum class Isa { kPortable, kAvx2, kAvx512 };  // kAvx512 means with VNNI

Isa active_isa();  // kUnsupported if WEFT_ISA names one this CPU lacks
const char* name(Isa isa);
std::vector<Isa> available_isas();  // best first
bool has_native_bf16();             // AVX512_BF16 dot products, and the active ISA is kAvx512
// Whether it pays to ask for weights some way ahead even where one row alone reads them: Intel's cores
// read a single stream faster so, AMD's are disturbed (linear-inl.h has figures).
bool asks_ahead();

// For tests and benches: from now on this one. Not while kernels run.
void force_isa(Isa isa);

}  // namespace weft::kernels
