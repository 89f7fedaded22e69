#include "kernels/isa.h"

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "kernels/targets.h"
// After targets.h.
#include "hwy/highway.h"

namespace weft::kernels {
namespace {

// The Highway targets that an Isa stands for, and those below it that its kernels may lean on.
int64_t highway_targets(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512:
      return HWY_AVX3_DL;
    case Isa::kAvx2:
      return HWY_AVX2;
    case Isa::kPortable:
      return HWY_SSE4 | HWY_SCALAR;
  }
#endif
  (void)isa;
  return HWY_TARGETS;
}

bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  // Highway's VNNI target also asks for bit algorithms that we do not use but that every such CPU
  // has.
  if (isa == Isa::kAvx512) return (hwy::SupportedTargets() & HWY_AVX3_DL) != 0;
  if (isa == Isa::kAvx2) return (hwy::SupportedTargets() & HWY_AVX2) != 0;
  return true;
#else
  return isa == Isa::kPortable;
#endif
}

const std::vector<Isa>& found_isas() {
  static const std::vector<Isa> found = [] {
    std::vector<Isa> isas;
    for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kPortable})
      if (cpu_has(isa)) isas.push_back(isa);
    return isas;
  }();
  return found;
}

std::atomic<int> current{-1};

Isa choose() {
  const char* wanted = std::getenv("WEFT_ISA");
  if (wanted == nullptr || *wanted == '\0') return found_isas().front();
  for (const Isa isa : found_isas())
    if (std::string_view(wanted) == name(isa)) return isa;
  std::string known;
  for (const Isa isa : found_isas()) known += std::string(known.empty() ? "" : ", ") + name(isa);
  fail(ErrorKind::kUnsupported, "WEFT_ISA={}: this CPU runs {}", wanted, known);
}

}  // namespace

Isa active_isa() {
  const int isa = current.load(std::memory_order_relaxed);
  if (isa >= 0) return static_cast<Isa>(isa);
  force_isa(choose());
  return static_cast<Isa>(current.load());
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      return "portable";
  }
  return "?";
}

std::vector<Isa> available_isas() { return found_isas(); }

bool has_native_bf16() {
#if defined(__x86_64__)
  static const bool cpu = __builtin_cpu_supports("avx512bf16") != 0;
  return cpu && active_isa() == Isa::kAvx512;
#else
  return false;
#endif
}

bool asks_ahead() {
#if defined(__x86_64__)
  static const bool intel = __builtin_cpu_is("intel") != 0;
  return intel;
#else
  return false;
#endif
}

void force_isa(Isa isa) {
  (void)found_isas();  // looked up before the supported set is narrowed
  hwy::SetSupportedTargetsForTest(highway_targets(isa));
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  current.store(static_cast<int>(isa));
}

}  // namespace weft::kernels
