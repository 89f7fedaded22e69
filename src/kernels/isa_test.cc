#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <string>

namespace weft::kernels {
namespace {

TEST(isa, the_portable_one_is_always_there_and_last) {
  const std::vector<Isa> isas = available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.back(), Isa::kPortable);
  for (size_t i = 1; i < isas.size(); ++i) EXPECT_GT(isas[i - 1], isas[i]);
}

TEST(isa, forcing_one_makes_it_active_and_native_bf16_needs_avx512) {
  const Isa before = active_isa();
  const std::vector<Isa> all = available_isas();
  for (const Isa isa : all) {
    force_isa(isa);
    EXPECT_EQ(active_isa(), isa);
    if (isa != Isa::kAvx512) {
      EXPECT_FALSE(has_native_bf16()) << name(isa);
    }
  }
  EXPECT_EQ(available_isas(), all) << "forcing must not narrow the list";
  force_isa(before);
}

TEST(isa, names_are_what_the_environment_variable_takes) {
  EXPECT_EQ(std::string(name(Isa::kAvx512)), "avx512");
  EXPECT_EQ(std::string(name(Isa::kAvx2)), "avx2");
  EXPECT_EQ(std::string(name(Isa::kPortable)), "portable");
}

}  // namespace
}  // namespace weft::kernels
