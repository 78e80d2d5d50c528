"""Sets of time intervals: union, intersection, difference, length. Written once, used everywhere.

An interval set is a pair of int64 arrays (starts, ends), half-open, in nanoseconds. Functions accept any order and
any overlap and return sorted, disjoint, non-empty intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Times: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Intervals:
    """Sorted, disjoint, non-empty half-open intervals; shapes [n] and [n], nanoseconds."""

    starts: Times
    ends: Times

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def length_ns(self) -> int:
        """Total time covered."""
        return int(np.sum(self.ends - self.starts))


EMPTY = Intervals(np.empty(0, np.int64), np.empty(0, np.int64))


def union(starts: npt.ArrayLike, ends: npt.ArrayLike) -> Intervals:
    """The instants covered by at least one of the given intervals; those with end <= start cover nothing."""
    first = np.asarray(starts, np.int64)
    last = np.asarray(ends, np.int64)
    keep = last > first
    if not keep.all():
        first, last = first[keep], last[keep]
    if not len(first):
        return EMPTY
    if (first[1:] < first[:-1]).any():  # what comes from a table mostly is in order
        order = np.argsort(first, kind="stable")
        first, last = first[order], last[order]
    last = np.maximum.accumulate(last)
    opens = np.ones(len(first), bool)
    opens[1:] = first[1:] > last[:-1]
    closes = np.append(opens[1:], True)
    return Intervals(first[opens], last[closes])


def clip(a: Intervals, start_ns: int, end_ns: int) -> Intervals:
    """The part of `a` inside [start_ns, end_ns); takes time for what lies inside only."""
    first = int(np.searchsorted(a.ends, start_ns, side="right"))
    last = int(np.searchsorted(a.starts, end_ns, side="left"))
    if first >= last or end_ns <= start_ns:
        return EMPTY
    return Intervals(np.maximum(a.starts[first:last], start_ns), np.minimum(a.ends[first:last], end_ns))


def length_before(a: Intervals, instants_ns: npt.ArrayLike) -> Times:
    """For each instant the time that `a` covers before it, [n]."""
    instants = np.asarray(instants_ns, np.int64)
    lengths = a.ends - a.starts
    begun = np.searchsorted(a.starts, instants, side="right")
    whole = np.append(0, np.cumsum(lengths))[begun]
    over = np.append(0, a.ends)[begun] - instants  # of the last one begun, what comes later
    return np.asarray(whole - np.where(begun > 0, np.maximum(over, 0), 0), np.int64)


def covers(a: Intervals, instants_ns: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which instants lie in one of the intervals, [n]."""
    instants = np.asarray(instants_ns, np.int64)
    at = np.searchsorted(a.starts, instants, side="right") - 1
    inside: npt.NDArray[np.bool_] = (at >= 0) & (instants < np.append(a.ends, 0)[at])
    return inside


def intersection(a: Intervals, b: Intervals) -> Intervals:
    """The instants covered by both."""
    return parted(a, b)[0]


def difference(a: Intervals, b: Intervals) -> Intervals:
    """The instants covered by `a` and not by `b`."""
    return parted(a, b)[1]


def parted(a: Intervals, b: Intervals) -> tuple[Intervals, Intervals]:
    """The instants of `a` that `b` covers, and those that it does not."""
    first = np.searchsorted(a.ends, b.starts, side="right")
    count = np.maximum(np.searchsorted(a.starts, b.ends, side="left") - first, 0)  # intervals of a that each of b meets
    meets = np.repeat(np.arange(len(b)), count)
    met = np.arange(len(meets)) + np.repeat(first - (np.cumsum(count) - count), count)
    both = Intervals(np.maximum(a.starts[met], b.starts[meets]), np.minimum(a.ends[met], b.ends[meets]))
    # What is left begins where an interval of a does or a common piece ends, and ends with the next of the others.
    starts = np.sort(np.concatenate([a.starts, both.ends]), kind="stable")
    ends = np.sort(np.concatenate([both.starts, a.ends]), kind="stable")
    rest = ends > starts
    return both, Intervals(starts[rest], ends[rest])
