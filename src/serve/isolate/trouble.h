// What the tests of this room ask of their workers, by tokens in a prompt.
#pragma once

#include <string_view>

#include "models/language_model.h"

namespace weft::serve::isolate {

inline constexpr models::Token kCrashToken = 210, kHangToken = 211, kStrayStoreToken = 212;
inline constexpr std::string_view kFrontRole = "isolated-front";  // of the test program

}  // namespace weft::serve::isolate
