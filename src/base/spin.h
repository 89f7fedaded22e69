// Short waits that are not worth a system call.
#pragma once

namespace weft {

inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 100 us: longer than the serial stretches inside a decode step, shorter than anybody minds a
// core burning after the last one.
inline constexpr int kSpinsBeforeSleep = 4000;

}  // namespace weft
