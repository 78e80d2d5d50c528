"""When did the step's time change, over many stored baselines? Change points: the largest splits that are no chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from probe.errors import UsageError
from probe.gate import baseline as stored
from probe.gate.baseline import Baseline

SHUFFLES = 999
CHANCE = 0.01
LEAST_FRACTION = 0.02
FEWEST = 3  # baselines on each side of a change


@dataclass(frozen=True)
class Point:
    """One baseline; `change` is the ratio of the medians after and before, where one begins here."""

    path: Path
    baseline: Baseline
    change: float | None = None


def history(paths: Sequence[Path]) -> tuple[Point, ...]:
    """The baselines of files and directories by age, with the changes among those of one command and machine."""
    files = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    if not files:
        raise UsageError("probe gate history: give baselines, or a directory of them")
    read = sorted(((stored.read(file), file) for file in files), key=lambda pair: pair[0].created)
    series: dict[tuple[str, str], list[tuple[Baseline, Path]]] = {}
    for one, file in read:
        series.setdefault((one.command, str(one.fingerprint.get("device"))), []).append((one, file))
    return tuple(point for rows in series.values() for point in _marked(rows))


def _marked(rows: Sequence[tuple[Baseline, Path]]) -> list[Point]:
    values = np.log([one.step_s for one, _ in rows])
    changes = dict(change_points(values))
    return [Point(file, one, changes.get(i)) for i, (one, file) in enumerate(rows)]


def change_points(logs: np.ndarray) -> list[tuple[int, float]]:
    """Indices at which the level changes, with the ratio of the levels' medians after and before."""
    ends = [0, *_splits(logs), len(logs)]
    levels = [float(np.median(logs[a:b])) for a, b in pairwise(ends)]
    return [(at, math.exp(after - before)) for at, (before, after) in zip(ends[1:-1], pairwise(levels), strict=True)]


def _splits(logs: np.ndarray, first: int = 0) -> list[int]:
    """Where the level changes; each part is split again.

    A split counts when no more than 1 % of random orders of the same values have so large a one (a permutation test
    of the largest difference of means, weighted as in a two-sample test), and it is 2 % at least.
    """
    found = _largest(logs)
    if found is None:
        return []
    at, size = found
    rng = np.random.default_rng(len(logs))
    others = (_largest(rng.permutation(logs)) for _ in range(SHUFFLES))
    beaten = sum(other is not None and other[1] >= size for other in others)
    apart = abs(float(np.median(logs[at:]) - np.median(logs[:at])))
    if (beaten + 1) / (SHUFFLES + 1) > CHANCE or apart < math.log1p(LEAST_FRACTION):
        return []
    return [*_splits(logs[:at], first), first + at, *_splits(logs[at:], first + at)]


def _largest(logs: np.ndarray) -> tuple[int, float] | None:
    """The split with the largest weighted difference of means, and that difference."""
    n = len(logs)
    splits = range(FEWEST, n - FEWEST + 1)
    sizes = [(abs(float(np.mean(logs[i:]) - np.mean(logs[:i]))) * (i * (n - i) / n) ** 0.5, i) for i in splits]
    return (max(sizes)[1], max(sizes)[0]) if sizes else None
