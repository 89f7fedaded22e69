// What the environment says about who started this process, before MPI is asked: mpirun, Slurm's
// srun, or another launcher that speaks PMI or PMIx.
#pragma once

namespace weft::comm {

// Whether a launcher has started this process as one of several. A shell inside an allocation of
// Slurm's, a batch script and a job of one process are not.
bool is_launched_as_rank();

// kUnsupported: srun has started several, but without what lets MPI find the others (each would take
// itself for a job of its own).
void check_launcher();

}  // namespace weft::comm
