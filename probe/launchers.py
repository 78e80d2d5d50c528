"""Which rank of how many did a launcher start this process as? Read from the variables that launchers set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

# rank, ranks, rank on its node, ranks on its node: torchrun, srun, mpirun (Open MPI), mpiexec (MPICH, Intel).
# Slurm's step, not its job: the script that sbatch runs is one process of a job of many tasks.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


@dataclass(frozen=True)
class LaunchedRank:
    """A process's place in its launch; `local_ranks` is 0 where the launcher does not say it as one number."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1


def launched_rank(environ: Mapping[str, str] = os.environ) -> LaunchedRank:
    """The place that the first launcher says which names a rank and a size; alone where none does."""
    for names in LAUNCHERS:
        values = [environ.get(name, "") for name in names]
        if values[0].isdigit() and values[1].isdigit() and int(values[0]) < int(values[1]):
            return LaunchedRank(*(int(value) if value.isdigit() else 0 for value in values))
    return LaunchedRank()
