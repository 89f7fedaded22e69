// Starts ranks under mpirun, over shared memory of one host.
#pragma once

#include <string>
#include <vector>

#include "tests/process.h"

namespace weft::tests {

// What mpirun needs here: it refuses root and more ranks than cores unless told.
std::vector<std::string> mpi_environment();
// mpirun with these arguments; a long deadline turns a hang into a failure.
Finished mpirun(std::vector<std::string> arguments);
// weft_rank_program doing `what`.
Finished run_ranks(size_t num_ranks, const std::string& what);

// A tiny random model of this seed, written once.
const std::string& tiny_model(uint32_t seed);
// `weft generate` with it, greedily, after a prompt that is long enough to be divided.
std::vector<std::string> generate(uint32_t seed, const std::vector<std::string>& more);

size_t count(const std::string& text, const std::string& what);

}  // namespace weft::tests
