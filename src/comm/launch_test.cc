#include "comm/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace weft::comm {
namespace {

using Variables = std::map<std::string, std::string>;

// The environment with these launchers' variables and no others, put back afterwards.
class Environment {
 public:
  explicit Environment(const Variables& variables) {
    for (const std::string name :
         {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_ID",
          "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}) {
      const char* const value = std::getenv(name.c_str());
      if (value != nullptr) before_[name] = value;
      names_.push_back(name);
      unsetenv(name.c_str());
    }
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const std::string& name : names_) unsetenv(name.c_str());
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }

 private:
  std::vector<std::string> names_;
  Variables before_;
};

struct Case {
  const char* what;
  Variables variables;
  bool is_rank, is_refused;
};

TEST(launch, environments_of_launchers) {
  const Case cases[] = {
      {"a shell", {}, false, false},
      {"mpirun -n 4", {{"OMPI_COMM_WORLD_SIZE", "4"}}, true, false},
      {"mpirun -n 1", {{"OMPI_COMM_WORLD_SIZE", "1"}}, false, false},
      {"mpiexec of MPICH", {{"PMI_SIZE", "2"}, {"PMI_RANK", "1"}}, true, false},
      {"srun --mpi=pmix -n 4",
       {{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"PMIX_RANK", "3"}},
       true,
       false},
      {"srun --mpi=pmi2 -n 4",
       {{"SLURM_STEP_ID", "2"}, {"PMI_SIZE", "4"}, {"PMI_RANK", "0"}},
       true,
       false},
      {"srun --mpi=none -n 4",
       {{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_NTASKS", "4"}},
       true,
       true},
      {"srun -n 1 in an allocation of 4",
       {{"SLURM_STEP_ID", "1"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "4"}},
       false,
       false},
      {"an older srun -n 2", {{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}, {"PMIX_RANK", "0"}},
       true,
       false},
      {"a batch script", {{"SLURM_NTASKS", "4"}}, false, false},
      {"a batch step", {{"SLURM_STEP_ID", "4294967291"}, {"SLURM_NTASKS", "4"}}, false, false},
      {"salloc's shell",
       {{"SLURM_STEP_ID", "4294967290"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_NTASKS", "4"}},
       false,
       false},
      {"mpirun -n 1 inside an allocation of 4 nodes",
       {{"OMPI_COMM_WORLD_SIZE", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}},
       false,
       false},
      {"prun", {{"PMIX_RANK", "1"}}, true, false},
      {"an empty value", {{"OMPI_COMM_WORLD_SIZE", ""}}, false, false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    const Environment environment(c.variables);
    EXPECT_EQ(is_launched_as_rank(), c.is_rank);
    try {
      check_launcher();
      EXPECT_FALSE(c.is_refused);
    } catch (const Error& error) {
      EXPECT_TRUE(c.is_refused) << error.what();
      EXPECT_NE(std::string(error.what()).find("srun --mpi=pmix -n 4"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace weft::comm
