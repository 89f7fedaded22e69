#include "bench/machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "bench/limits.h"
#include "kernels/isa.h"

namespace weft::bench {
namespace {

TEST(machine, tells_what_the_system_says) {
  const Machine machine = read_machine();
  EXPECT_FALSE(machine.cpu.empty());
  EXPECT_EQ(machine.cores, available_cores());
  EXPECT_GT(machine.memory_bytes, size_t{64} << 20);
  EXPECT_LE(machine.available_bytes, machine.memory_bytes);
  EXPECT_TRUE(machine.system.starts_with("Linux ")) << machine.system;
  for (const Cache& cache : machine.caches)
    EXPECT_LE(cache.bytes, machine.last_level_cache_bytes());
  EXPECT_EQ(to_json(machine).at("caches").size(), machine.caches.size());
}

TEST(machine, knows_the_features_that_kernels_were_chosen_by) {
  const Machine machine = read_machine();
  const auto has = [&](const char* feature) {
    return std::find(machine.features.begin(), machine.features.end(), feature) !=
           machine.features.end();
  };
  for (const kernels::Isa isa : kernels::available_isas()) {
    if (isa == kernels::Isa::kAvx512) {
      EXPECT_TRUE(has("avx512_vnni"));
    }
    if (isa == kernels::Isa::kAvx2) {
      EXPECT_TRUE(has("avx2"));
    }
  }
}

TEST(machine, peak_memory_sees_a_buffer_come_and_go) {
  constexpr size_t kBytes = size_t{64} << 20;
  reset_peak_memory();
  const size_t before = peak_memory_bytes();
  {
    Buffer buffer(kBytes, "a test");
    std::memset(buffer.data(), 1, kBytes);
  }
  // A little of what was resident before may have left meanwhile.
  EXPECT_GE(peak_memory_bytes(), before + kBytes / 10 * 9);
}

// Every way of measuring runs on every instruction set; what is measured depends on the machine.
TEST(limits, measures_on_every_instruction_set) {
  ThreadPool pool(2);
  const ReadBandwidth memory(0, size_t{32} << 20, pool.cores());
  for (const kernels::Isa isa : kernels::available_isas()) {
    kernels::force_isa(isa);
    EXPECT_GT(memory.measure(pool.cores(), 1), 1e6) << name(isa);
    EXPECT_GT(*peak_rate(Product::kF32, pool.cores(), 1), 1e6) << name(isa);
    const auto int8 = peak_rate(Product::kInt8, pool.cores(), 1);
    EXPECT_EQ(int8.has_value(), isa != kernels::Isa::kPortable) << name(isa);
    const auto bf16 = peak_rate(Product::kBF16, pool.cores(), 1);
    EXPECT_EQ(bf16.has_value(), kernels::has_native_bf16()) << name(isa);
  }
  kernels::force_isa(kernels::available_isas().front());
}

TEST(limits, reads_from_disk) {
  EXPECT_GT(disk_read_rate(WEFT_SOURCE_DIR "/LICENSE", 1 << 20), 0);
  EXPECT_THROW(disk_read_rate(WEFT_SOURCE_DIR "/no such file", 1), Error);
}

}  // namespace
}  // namespace weft::bench
