#include "tests/ranks/launch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "formats/random_model.h"

namespace weft::tests {

std::vector<std::string> mpi_environment() {
  return {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
          "OMPI_MCA_rmaps_base_oversubscribe=1",
          "ASAN_OPTIONS=detect_leaks=0"};  // Open MPI leaves memory behind at its end
}

Finished mpirun(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"60", WEFT_MPIRUN});
  return run_program("/usr/bin/timeout", arguments, "", mpi_environment());
}

Finished run_ranks(size_t num_ranks, const std::string& what) {
  return mpirun({"-n", std::to_string(num_ranks), WEFT_RANK_PROGRAM, what});
}

struct ModelFile {
  explicit ModelFile(uint32_t seed)
      : path(fmt::format("{}/ranks-{}-{}.gguf", testing::TempDir(), seed, getpid())) {
    formats::write_random_model(path, "tiny", formats::quant_mix("f16"), seed, CoreSet());
  }
  ~ModelFile() { std::filesystem::remove(path); }
  std::string path;
};

const std::string& tiny_model(uint32_t seed) {
  static std::map<uint32_t, ModelFile> files;
  return files.try_emplace(seed, seed).first->second.path;
}

std::vector<std::string> generate(uint32_t seed, const std::vector<std::string>& more) {
  std::string prompt;
  while (prompt.size() < 300) prompt += "all ranks see it, ";
  std::vector<std::string> out = {WEFT_PROGRAM, "generate", "--raw",        "--model",
                                  tiny_model(seed), "--temp", "0",          "--max-tokens",
                                  "8",          prompt};
  out.insert(out.end(), more.begin(), more.end());
  const std::string flag = "--overlap-tunings";
  if (std::find(more.begin(), more.end(), flag) == more.end()) {
    out.push_back(flag);  // nothing is kept from run to run
    out.emplace_back("none");
  }
  return out;
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

}  // namespace weft::tests
