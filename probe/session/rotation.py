"""Which traces of a long run are kept? The newest, and the one with the slowest steps; of limited size together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from probe.runs.run import Cycle

MOST_TOLD = 1000  # cycles without a file that the run still tells of; run.json is written anew with each cycle


def rotated(cycles: Sequence[Cycle], directory: Path, keep: int | None, max_bytes: int | None) -> list[Cycle]:
    """The cycles, those without their files that make room for newer ones; the oldest of these are told no more.

    Raises OSError.
    """
    sizes = {cycle.index: sum(_size(path) for path in _files(cycle, directory)) for cycle in cycles if cycle.file}
    gone = superfluous(cycles, keep, max_bytes, sizes)
    for cycle in cycles:
        for path in _files(cycle, directory) if cycle.index in gone else ():
            path.unlink(missing_ok=True)
    told = [_without_files(cycle) if cycle.index in gone else cycle for cycle in cycles]
    empty = [cycle.index for cycle in told if cycle.file is None]
    forgotten = set(empty[:-MOST_TOLD])
    return [cycle for cycle in told if cycle.index not in forgotten]


def _files(cycle: Cycle, directory: Path) -> Iterator[Path]:
    """Everything that was written of a cycle."""
    return (directory / name for name in (cycle.file, cycle.tensors, cycle.memory) if name is not None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def superfluous(
    cycles: Sequence[Cycle], keep: int | None, max_bytes: int | None, sizes: Mapping[int, int] | None = None
) -> set[int]:
    """The indices of the cycles whose traces go: beyond the `keep` newest and the slowest, or beyond `max_bytes`.

    sizes: bytes of all files of a cycle, where those are known; else those of its trace.
    """
    bytes_of = {cycle.index: cycle.bytes or 0 for cycle in cycles} if sizes is None else sizes
    there = [cycle for cycle in cycles if cycle.file is not None]
    slowest = max(there, key=_mean_ns, default=None)
    gone = {c.index for c in there[:-keep] if c is not slowest} if keep is not None else set()
    if max_bytes is not None:
        candidates = [c for c in there[:-1] if c.index not in gone and c is not slowest]
        candidates += [slowest] if slowest is not None and slowest is not there[-1] else []
        size = sum(bytes_of[cycle.index] for cycle in there if cycle.index not in gone)
        for cycle in candidates:
            if size <= max_bytes:
                break
            gone.add(cycle.index)
            size -= bytes_of[cycle.index]
    return gone


def _mean_ns(cycle: Cycle) -> float:
    return statistics.fmean(cycle.durations_ns) if cycle.durations_ns else 0.0


def _without_files(cycle: Cycle) -> Cycle:
    return replace(
        cycle, file=None, tensors=None, memory=None, note="its trace was removed to make room for newer ones"
    )
