"""Which traces of a long run are kept? The newest, and the one with the slowest steps; of limited size together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from probe.run import Cycle


def rotated(cycles: Sequence[Cycle], directory: Path, keep: int | None, max_bytes: int | None) -> list[Cycle]:
    """The cycles, those without their files that make room for newer ones. Raises OSError."""
    gone = superfluous(cycles, keep, max_bytes)
    for cycle in cycles:
        for name in (cycle.file, cycle.tensors, cycle.memory) if cycle.index in gone else ():
            if name is not None:
                (directory / name).unlink(missing_ok=True)
    return [_without_files(cycle) if cycle.index in gone else cycle for cycle in cycles]


def superfluous(cycles: Sequence[Cycle], keep: int | None, max_bytes: int | None) -> set[int]:
    """The indices of the cycles whose traces go: beyond the `keep` newest and the slowest, or beyond `max_bytes`."""
    there = [cycle for cycle in cycles if cycle.file is not None]
    slowest = max(there, key=_mean_ns, default=None)
    gone = {c.index for c in there[:-keep] if c is not slowest} if keep is not None else set()
    if max_bytes is not None:
        candidates = [c for c in there[:-1] if c.index not in gone and c is not slowest]
        candidates += [slowest] if slowest is not None and slowest is not there[-1] else []
        size = sum(cycle.bytes or 0 for cycle in there if cycle.index not in gone)
        for cycle in candidates:
            if size <= max_bytes:
                break
            gone.add(cycle.index)
            size -= cycle.bytes or 0
    return gone


def _mean_ns(cycle: Cycle) -> float:
    return statistics.fmean(cycle.durations_ns) if cycle.durations_ns else 0.0


def _without_files(cycle: Cycle) -> Cycle:
    return replace(
        cycle, file=None, tensors=None, memory=None, note="its trace was removed to make room for newer ones"
    )
