// A pass over experts that has something to compute for them itself (text/expert_stream checks what it
// has read): the forward pass lends it its cores, between two products of its own.
#pragma once

#include "base/thread_pool.h"
#include "models/expert_store.h"

namespace weft::models {

class ComputingPass : public ExpertPass {
 public:
  // Until end(). Inside next() alone.
  virtual void lend(const CoreSet& cores) = 0;
};

}  // namespace weft::models
