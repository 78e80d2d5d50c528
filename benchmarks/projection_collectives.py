"""Does the ring model fitted at two ranks foretell three and four? All-reduce by Gloo on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = tuple(1 << n for n in range(20, 26))  # bytes: from 1 MiB, below which ranks wait for one another
REPEATS = 9


def measure() -> list[dict[str, Any]]:
    """Fastest times at 2, 3 and 4 ranks, and those that the line through 2 ranks' foretells."""
    from probe.analyzers.projection.links import hops, volume_bytes
    from probe.microbench.collectives.alpha_beta import line_through

    times = {ranks: _times(ranks) for ranks in (2, 3, 4)}
    line = line_through(SIZES, [times[2][size] for size in SIZES])
    hop_s = line.alpha_s / hops("all_reduce", 2)
    busbw = line.beta_bytes_per_s * volume_bytes("all_reduce", 1.0, 2)
    rows = []
    for ranks in (3, 4):
        for size in SIZES:
            foretold = hops("all_reduce", ranks) * hop_s + volume_bytes("all_reduce", size, ranks) / busbw
            rows.append({"ranks": ranks, "bytes": size, "foretold_s": foretold, "measured_s": times[ranks][size],
                         "error": foretold / times[ranks][size] - 1})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _times(ranks: int) -> dict[int, float]:
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(ranks), folder], stdout=subprocess.PIPE, text=True
            )
            for rank in range(ranks)
        ]
        told = [process.communicate()[0] for process in started]
    return {int(size): seconds for size, seconds in json.loads(told[0].splitlines()[-1]).items()}


def _rank(rank: int, ranks: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'store'}", rank=rank, world_size=ranks)
    found = {}
    for size in SIZES:
        tensor, best = torch.ones(size // 4), float("inf")
        for _ in range(REPEATS):
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(tensor)
            best = min(best, time.perf_counter() - begun)
        found[size] = best
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
