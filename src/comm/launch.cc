#include "comm/launch.h"

#include <cstdint>
#include <cstdlib>
#include <optional>

#include "base/error.h"

namespace weft::comm {
namespace {

std::optional<uint64_t> number_in(const char* variable) {
  const char* const text = std::getenv(variable);
  if (text == nullptr || *text == 0) return std::nullopt;
  return std::strtoull(text, nullptr, 10);
}

// Tasks of the step that srun has started; none: no srun. Scripts and shells are steps too, with
// numbers at the very end.
std::optional<uint64_t> tasks_of_step() {
  constexpr uint64_t kFirstReserved = 0xfffffff0;
  const auto step = number_in("SLURM_STEP_ID"), tasks = number_in("SLURM_STEP_NUM_TASKS");
  if (!step || *step >= kFirstReserved) return std::nullopt;
  return tasks ? tasks : number_in("SLURM_NTASKS");
}

}  // namespace

// The first that says anything is the launcher: mpirun starts its own helpers by srun inside an
// allocation, and their step's variables reach the ranks.
bool is_launched_as_rank() {
  if (const auto size = number_in("OMPI_COMM_WORLD_SIZE")) return *size > 1;
  if (const auto size = number_in("PMI_SIZE")) return *size > 1;  // MPICH; srun --mpi=pmi2
  if (const auto tasks = tasks_of_step()) return *tasks > 1;
  return number_in("PMIX_RANK").has_value();  // it does not say of how many
}

void check_launcher() {
  for (const char* const variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (number_in(variable)) return;
  if (const auto tasks = tasks_of_step(); tasks && *tasks > 1)
    fail(ErrorKind::kUnsupported,
         "srun has started {} tasks, but gives MPI no way to find the others: srun --mpi=pmix -n {} "
         "weft ... ('srun --mpi=list' shows what this Slurm has; mpirun inside the allocation works "
         "too)",
         *tasks, *tasks);
}

}  // namespace weft::comm
