"""Does the ring model fitted at two ranks foretell three and four? All-reduce by Gloo, on the cores that this may use.

Gloo's ranks move data with the host's processor. What more of them take on the same cores is therefore counted twice:
by the clock, and as the processor time of all ranks together, which others' work on the machine does not lengthen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = tuple(1 << n for n in range(20, 26))  # bytes: from 1 MiB, below which ranks wait for one another
REPEATS, ROUNDS = 9, 4
Times = dict[int, dict[str, float]]  # of each size: "clock" and "processor" seconds, the latter of all ranks


def measure() -> list[dict[str, Any]]:
    """Fastest times at 2, 3 and 4 ranks, and those that the line through 2 ranks' foretells."""
    cores = len(os.sched_getaffinity(0))
    times = _best([{ranks: _times(ranks) for ranks in (2, 3, 4)} for _ in range(ROUNDS)])
    rows = []
    for ranks in (3, 4):
        for size in SIZES:
            row: dict[str, Any] = {"ranks": ranks, "cores": cores, "bytes": size}
            for kind, among in (("clock", cores), ("processor", 1)):  # all ranks' processor time is that of one core
                foretold, measured = _foretold(times[2], kind, among, ranks, size), times[ranks][size][kind]
                row[kind] = {"foretold_s": foretold, "measured_s": measured, "error": foretold / measured - 1}
            rows.append(row)
            print(row, flush=True)
    return rows


def _best(rounds: list[dict[int, Times]]) -> dict[int, Times]:
    """The fastest of several rounds, so that all numbers of ranks meet a busy machine's quiet moments."""
    return {
        ranks: {
            size: {kind: min(each[ranks][size][kind] for each in rounds) for kind in ("clock", "processor")}
            for size in SIZES
        }
        for ranks in rounds[0]
    }


def _foretold(two: Times, kind: str, cores: int, ranks: int, size: int) -> float:
    from probe.analyzers.projection.links import among_cores, hops, seconds, volume_bytes
    from probe.microbench.collectives.alpha_beta import line_through

    line = line_through(SIZES, [two[size][kind] for size in SIZES])
    busbw, hop_s = line.beta_bytes_per_s * volume_bytes("all_reduce", 1.0, 2), line.alpha_s / hops("all_reduce", 2)
    return seconds("all_reduce", size, ranks, among_cores("Gloo", busbw, hop_s, 2, cores))


def _times(ranks: int) -> Times:
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(ranks), folder], stdout=subprocess.PIPE, text=True
            )
            for rank in range(ranks)
        ]
        told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    found: Times = {}
    for size in SIZES:
        of_ranks = [one[str(size)] for one in told]
        processor = [sum(each) for each in zip(*(one["processor"] for one in of_ranks), strict=True)]
        found[size] = {"clock": min(of_ranks[0]["clock"]), "processor": min(processor)}
    return found


def _rank(rank: int, ranks: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'store'}", rank=rank, world_size=ranks)
    found: dict[int, dict[str, list[float]]] = {}
    for size in SIZES:
        tensor = torch.ones(size // 4)
        taken: dict[str, list[float]] = {"clock": [], "processor": []}
        for _ in range(REPEATS + 1):
            dist.barrier()
            begun, used = time.perf_counter(), time.process_time()
            dist.all_reduce(tensor)
            taken["processor"].append(time.process_time() - used)
            taken["clock"].append(time.perf_counter() - begun)
        found[size] = {kind: each[1:] for kind, each in taken.items()}  # the first connects
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
