#include "comm/transport.h"

#include <algorithm>

namespace weft::comm {

void Transport::add_ongoing(std::weak_ptr<Ongoing> ongoing) {
  const std::scoped_lock lock(ongoing_mutex_);
  ongoing_.push_back(std::move(ongoing));
  num_ongoing_ = ongoing_.size();
}

void Transport::move_ongoing() {
  if (num_ongoing_.load(std::memory_order_relaxed) == 0) return;
  std::vector<std::weak_ptr<Ongoing>> all;
  {
    const std::scoped_lock lock(ongoing_mutex_);
    all = ongoing_;
  }
  bool any_ended = false;
  for (const auto& weak : all) {
    const auto ongoing = weak.lock();
    any_ended |= !ongoing || ongoing->move_on();
  }
  if (!any_ended) return;
  const std::scoped_lock lock(ongoing_mutex_);
  std::erase_if(ongoing_, [](const auto& weak) {
    const auto ongoing = weak.lock();
    return !ongoing || ongoing->move_on();
  });
  num_ongoing_ = ongoing_.size();
}

}  // namespace weft::comm
