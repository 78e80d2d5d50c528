"""When does each rank come to each collective, how long does it wait there, and how late is it against the others?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from probe.analyzers.ranks.clocks import Clocks
from probe.analyzers.ranks.matching import Meetings, openings, runs, waits_for_all
from probe.results.multirank import Arrivals
from probe.trace import Int64s, Mask


def arrive(meetings: Meetings, clocks: Clocks, ranks: tuple[int, ...]) -> Arrivals:
    """The arrivals at collectives in which ranks wait for each other, as far as their clocks can be compared.

    A wait lasts from a rank's own start to the latest start among the ranks at hand, all on the reference's clock; what
    follows is the collective itself. Sorted by meeting, then start.
    """
    rows = meetings.rows
    usable = np.flatnonzero(waits_for_all(meetings) & _comparable(meetings, clocks))
    place = rows.rank[usable]
    local = rows.start_ns[usable].astype(np.float64)
    shift = clocks.shift_ns[place] + clocks.drift[place] * (local - clocks.middle_ns)
    start = rows.start_ns[usable] - np.rint(shift).astype(np.int64)
    order = np.lexsort((start, rows.meeting[usable]))
    usable, start, place = usable[order], start[order], place[order]
    first, size = runs(openings(rows.meeting[usable]))
    return Arrivals(
        meeting=rows.meeting[usable],
        rank=np.asarray(ranks, np.int32)[place],
        kind=rows.kind[usable],
        step=rows.step[usable],
        start_ns=start + meetings.base_ns,
        wait_ns=np.repeat(start[first + size - 1], size) - start,
        late_ns=start - median_of_others(start, first, size),
        delay_ns=_delays(start, first + size - 1),
    )


def _comparable(meetings: Meetings, clocks: Clocks) -> Mask:
    """Rows of collectives whose ranks all hang on one reference, and are at least two."""
    rows = meetings.rows
    tree = clocks.tree[rows.rank]
    first = meetings.first
    same = np.ones(len(rows), bool)
    if len(rows):
        low, high = np.minimum.reduceat(tree, first), np.maximum.reduceat(tree, first)
        same = np.repeat((low == high) & (low >= 0), meetings.size)
    return same


def median_of_others(values: Int64s, first: Int64s, size: Int64s) -> Int64s:
    """For each value the median of the others of its run, rounded down; runs of two or more, each sorted."""
    begin, others = np.repeat(first, size), np.repeat(size - 1, size)
    place = np.arange(len(values)) - begin
    low, high = (others - 1) // 2, others // 2
    below: Int64s = values[begin + low + (low >= place)]
    above: Int64s = values[begin + high + (high >= place)]
    middle: Int64s = below + (above - below) // 2
    return middle


def _delays(start: Int64s, last: Int64s) -> Int64s:
    delay = np.zeros(len(start), np.int64)
    delay[last] = start[last] - start[last - 1]
    return delay


def slacks(clocks: Clocks) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far an arrival against the median of the others may lie below and above what it seems, [ranks], ns.

    A clock may be ahead by more than thought (its rank came earlier) or by less; so may those of the others, all on
    one tree. NaN where a rank can be compared to none.
    """
    early, late = (np.full(len(clocks.tree), np.nan) for _ in range(2))
    for reference in np.unique(clocks.tree[clocks.tree >= 0]):
        places = np.flatnonzero(clocks.tree == reference)
        known = [clocks.offsets[place].known_ns or (0, 0) for place in places]
        shift = clocks.shift_ns[places]
        ahead = np.array([high for _, high in known]) - shift
        behind = shift - np.array([low for low, _ in known])
        early[places] = ahead + _typical_of_others(behind)
        late[places] = behind + _typical_of_others(ahead)
    return np.maximum(early, 0), np.maximum(late, 0)


def _typical_of_others(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    order = np.argsort(values)
    found = np.empty(len(values))
    whole = np.rint(values[order]).astype(np.int64)
    found[order] = median_of_others(whole, np.zeros(1, np.int64), np.array([len(values)]))
    return found
