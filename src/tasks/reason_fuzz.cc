// Any text is read without fault: as a problem, a sentence, a model's answer to a problem, or a
// level.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "tasks/reason.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weft::tasks;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view first = text.substr(0, text.find('\n'));
  WEFT_ASSERT(same_meaning(first, first));
  const ReasonProblem problem = parse_reason(first).value_or(
      make_reason(options_of(ReasonLevel::kEasy), ReasonSplit::kTest, 1, 1));
  const ReasonVerdict verdict =
      check_reason(problem, text.substr(first.size() == text.size() ? 0 : first.size() + 1));
  WEFT_ASSERT(!verdict.right || verdict.finished);
  WEFT_ASSERT(verdict.right_steps <= problem.steps.size());
  try {
    (void)make_reason(reason_options(first), ReasonSplit::kTrain, 1, 0);
  } catch (const weft::Error&) {
  }
  return 0;
}
