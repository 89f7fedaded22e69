// A sketch of all rows of a model's head (kernels/row_sketch.h), for requests in mode kScreen: a
// quarter of an int8 head's memory, shared by all of a model's packed heads.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>

#include "base/thread_pool.h"
#include "kernels/row_sketch.h"
#include "models/language_model.h"

namespace weft::text {

// Thread-safe.
class VocabSketch {
 public:
  // `num_selectable`: rows from there on are padding, which nobody may sample.
  VocabSketch(std::shared_ptr<const models::LanguageModel> model, size_t num_selectable)
      : model_(std::move(model)), num_selectable_(num_selectable) {}

  // Made at the first call, which reads the whole head once; the others wait for it.
  const kernels::RowSketch& rows(const CoreSet& cores) const;
  size_t bytes() const { return bytes_.load(); }  // 0 until it is made

 private:
  std::shared_ptr<const models::LanguageModel> model_;
  size_t num_selectable_;
  mutable std::once_flag once_;
  mutable kernels::RowSketch rows_;
  mutable std::atomic<size_t> bytes_ = 0;
};

}  // namespace weft::text
