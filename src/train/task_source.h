// Generated examples: "reason?level=easy,medium&split=train" (tasks/reason.h).
#pragma once

#include <memory>
#include <string>

#include "train/example.h"

namespace weft::train {

// Levels take turns. kInvalidInput lists the tasks, their options and what these may be.
std::unique_ptr<ExampleSource> open_task(const std::string& task, const ExampleFormat& format,
                                         uint64_t seed);

}  // namespace weft::train
