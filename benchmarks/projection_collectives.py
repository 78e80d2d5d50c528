"""Do all-reduces of two ranks foretell those of three and four? By Gloo, on the cores that this may use.

Gloo's ranks move data with the host's processor. What more of them take on the same cores is therefore counted twice:
by the clock, and as the processor time of all ranks together, which others' work on the machine does not lengthen.
Four processes stay alive, and groups of two, three and four of them take turns at every size, round after round.

Sizes are a tenth above powers of two, as gradients' are not powers of two either. Gloo cuts a message into segments of
1 MiB at the most; of a power of two all are exactly that, and may meet in the same sets of the caches. Both kinds are
measured, and how much longer a byte takes at powers of two is told.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POWERS = tuple(1 << n for n in range(20, 26))  # bytes: from 1 MiB, below which ranks wait for one another
SIZES = tuple(int(1.1 * size) // 48 * 48 for size in POWERS)  # whole numbers for every rank
LARGEST = SIZES[-1] * 2  # at two ranks, where a rank sends less than one of four does
RANKS, REPEATS, ROUNDS = (2, 3, 4), 4, 8
KINDS = ("clock", "processor")
Samples = dict[tuple[int, int], list[dict[str, float]]]  # of ranks and size, the fastest of each round, seconds


def measure() -> dict[str, Any]:
    """Each size at 3 and 4 ranks foretold from 2; each size left out in turn; and how alike two measurements are."""
    cores = len(os.sched_getaffinity(0))
    samples = _samples(_all_ranks())
    rows = [_across(samples, cores, ranks, size) for ranks in RANKS[1:] for size in SIZES]
    left_out = [_left_out(samples, ranks, n) for ranks in RANKS for n in range(1, len(SIZES) - 1)]
    found = {
        "cores": cores, "rows": rows, "left_out": left_out,
        "repeat": {kind: [_repeat(samples[ranks, size], kind) for ranks in RANKS for size in SIZES] for kind in KINDS},
        "powers_of_two": {str(ranks): _powers(samples, ranks) for ranks in RANKS},
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    return found


def _across(samples: Samples, cores: int, ranks: int, size: int) -> dict[str, Any]:
    """Foretold from two ranks: what they took for as many bytes sent, more hops, and ranks that share the cores."""
    from probe.analyzers.projection.links import among_cores, hops, seconds, volume_bytes
    from probe.microbench.collectives.alpha_beta import line_through

    sizes = (*SIZES, LARGEST)
    row: dict[str, Any] = {"ranks": ranks, "bytes": size}
    for kind, among in (("clock", cores), ("processor", 1)):  # all ranks' processor time is that of one core
        two = [_fastest(samples[2, each], kind) for each in sizes]
        line = line_through(sizes, two)
        times = tuple((volume_bytes("all_reduce", each, 2), took) for each, took in zip(sizes, two, strict=True))
        hop_s = max(line.alpha_s, 0.0) / hops("all_reduce", 2)
        way = among_cores("Gloo", line.beta_bytes_per_s, hop_s, 2, among, times)
        row[kind] = _error(seconds("all_reduce", size, ranks, way), _fastest(samples[ranks, size], kind))
    return row


def _left_out(samples: Samples, ranks: int, n: int) -> dict[str, Any]:
    """One size foretold from its neighbours at the same number of ranks."""
    from probe.analyzers.projection.links import Path as Way
    from probe.analyzers.projection.links import seconds, volume_bytes

    row: dict[str, Any] = {"ranks": ranks, "bytes": SIZES[n]}
    for kind in KINDS:
        others = [size for size in SIZES if size != SIZES[n]]
        times = [(volume_bytes("all_reduce", s, ranks), _fastest(samples[ranks, s], kind)) for s in others]
        way = Way("Gloo", 1.0, 0.0, times=tuple(times), among=ranks)
        row[kind] = _error(seconds("all_reduce", SIZES[n], ranks, way), _fastest(samples[ranks, SIZES[n]], kind))
    return row


def _error(foretold_s: float, measured_s: float) -> dict[str, float]:
    return {"foretold_s": foretold_s, "measured_s": measured_s, "error": foretold_s / measured_s - 1}


def _fastest(rounds: list[dict[str, float]], kind: str) -> float:
    return min(each[kind] for each in rounds)


def _repeat(rounds: list[dict[str, float]], kind: str) -> float:
    """The same point measured twice: the fastest of every other round over that of the rest, less one."""
    return _fastest(rounds[::2], kind) / _fastest(rounds[1::2], kind) - 1


def _powers(samples: Samples, ranks: int) -> float:
    """How much more processor time a byte takes at powers of two, of those from 4 MiB up; median."""
    pairs = [(p, s) for p, s in zip(POWERS, SIZES, strict=True) if p >= 4 << 20]
    took = {size: _fastest(samples[ranks, size], "processor") / size for pair in pairs for size in pair}
    return statistics.median(took[power] / took[size] - 1 for power, size in pairs)


def _samples(told: list[list[list[float]]]) -> Samples:
    """Of each call the slowest rank by the clock and all ranks' processor time; of each round the fastest call."""
    calls: dict[tuple[int, int, int, int], dict[str, float]] = {}
    for rank in told:
        for at, size, ranks, call, clock, processor in rank:
            one = calls.setdefault((int(ranks), int(size), int(at), int(call)), dict.fromkeys(KINDS, 0.0))
            one["clock"], one["processor"] = max(one["clock"], clock), one["processor"] + processor
    rounds: dict[tuple[int, int, int], dict[str, float]] = {}
    for (ranks, size, at, _), one in calls.items():
        best = rounds.setdefault((ranks, size, at), dict(one))
        best.update({kind: min(best[kind], one[kind]) for kind in KINDS})
    found: Samples = {}
    for (ranks, size, _), best in sorted(rounds.items()):
        found.setdefault((ranks, size), []).append(best)
    return found


def _all_ranks() -> list[list[list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__]
        started = [
            subprocess.Popen([*command, str(rank), folder], stdout=subprocess.PIPE, text=True)
            for rank in range(RANKS[-1])
        ]
        return [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]


def _rank(rank: int, folder: str) -> None:
    """Prints round, size, ranks, call, and seconds by the clock and of the processor, of each call of this rank."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = f"file://{Path(folder) / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS[-1])
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in RANKS}
    found: list[tuple[float, ...]] = []
    for at in range(ROUNDS):
        for size in (*sorted((*SIZES, *POWERS)), LARGEST):
            for ranks in RANKS if size != LARGEST else RANKS[:1]:
                if rank < ranks:
                    found += [(at, size, ranks, *one) for one in _calls(groups[ranks], torch.zeros(size // 4))]
                dist.barrier()
    print(json.dumps(found))
    dist.destroy_process_group()


def _calls(group: Any, tensor: Any) -> list[tuple[float, ...]]:
    import torch.distributed as dist

    found: list[tuple[float, ...]] = []
    for call in range(REPEATS + 1):
        dist.barrier(group=group)
        begun, used = time.perf_counter(), time.process_time()
        dist.all_reduce(tensor, group=group)
        used_s = time.process_time() - used
        found.append((call, time.perf_counter() - begun, used_s))
    return found[1:]  # the first connects, and meets memory that was not used yet


if __name__ == "__main__":
    _rank(int(sys.argv[1]), sys.argv[2])
