// Before ranks work together they make sure that they are about to do the same: the same version of
// the program, the same model, the same way of dividing the work.
#pragma once

#include <string>

#include "comm/communicator.h"

namespace weft::comm {

// Short texts (120 bytes are compared and shown of each).
struct Introduction {
  std::string version;  // of the program
  std::string model;    // its name and a fingerprint of its contents
  std::string plan;     // options that all ranks must share
};

// Every rank calls it. kInvalidInput, on all ranks and with the same words: the first rank that is
// not like rank 0, what it has and what rank 0 has.
void shake_hands(const Communicator& ranks, const Introduction& mine);

}  // namespace weft::comm
