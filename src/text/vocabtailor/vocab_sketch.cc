#include "text/vocabtailor/vocab_sketch.h"

#include "base/file.h"

namespace weft::text {

const kernels::RowSketch& VocabSketch::rows(const CoreSet& cores) const {
  std::call_once(once_, [&] {
    const TensorView head = model_->head_weight();
    advise(head.data, head.bytes(), FileAccess::kNormal);
    rows_ = kernels::RowSketch::make(head, num_selectable_, cores);
    advise(head.data, head.bytes(), FileAccess::kRandom);
    model_->release_head_weight();
    bytes_ = rows_.bytes();
  });
  return rows_;
}

}  // namespace weft::text
