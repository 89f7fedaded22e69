// The overlap of a crew's sums, switched while it works: for measuring one beside the other.
#pragma once

#include "models/language_model.h"

namespace weft::parallel {

// Of all ranks, from their next pass on; `model` leads them (lead() in crew.h). Without effect
// where their plan has no overlap, and for models that nobody else computes with. Same bits either
// way.
void set_overlap(const models::LanguageModel& model, bool on);

}  // namespace weft::parallel
