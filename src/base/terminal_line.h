// One line on stderr that is drawn over again and again: progress bars (base/progress.h), a training
// run's figures.
#pragma once

#include <string>

namespace weft {

bool stderr_is_terminal();
void draw_line(const std::string& text);  // over what stood there
void clear_line();
std::string minutes(double seconds);  // "0:07", "1:02:03"

}  // namespace weft
