"""How fast are the collectives? algbw and busbw as nccl-tests defines them, of the time after the last rank came.

The last rank to come waits for nobody, so the shortest time in a collective among its ranks is its duration proper.
Every time in it is of one clock: no offset between clocks enters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analyzers.ranks.kinds import KINDS, MEETINGS, is_kind
from probe.analyzers.ranks.matching import Meetings
from probe.bus_bandwidth import bus_factor
from probe.results.multirank import Arrivals, CollectiveRow, Interval
from probe.stats import Summary, fewest_for_interval, summarise
from probe.trace import Int64s, Mask, Table

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Measured(Table):
    """One row for each meeting; NaN where not known."""

    duration_s: Numbers
    present: Int64s  # ranks at hand
    imbalance: Numbers
    wait_s: Numbers  # mean over its ranks
    in_switch: Mask


def collective_rows(meetings: Meetings, arrivals: Arrivals) -> tuple[CollectiveRow, ...]:
    """One row for each kind, message size and group size; most time first."""
    if not len(meetings.first):
        return ()
    columns = np.stack([meetings.rows.kind[meetings.first].astype(np.int64), message_bytes(meetings), _sizes(meetings)])
    keys, inverse = np.unique(columns, axis=1, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(inverse.reshape(-1)))[:-1])
    measured = _measured(meetings, arrivals)
    rows = (
        _row(kind, size, ranks, measured.where(part))
        for (kind, size, ranks), part in zip(keys.T.tolist(), parts, strict=True)
    )
    return tuple(sorted(rows, key=lambda row: -row.duration_s * row.n))


def message_bytes(meetings: Meetings) -> Int64s:
    """Size S of nccl-tests, [meetings]: the whole array of a rank, and -1 where not known.

    That is the output of an all-gather and the input of a reduce-scatter; an all-to-all counts a mean rank's input.
    """
    rows, first = meetings.rows, meetings.first
    size = _sizes(meetings)
    into, out = np.maximum.reduceat(rows.in_bytes, first), np.maximum.reduceat(rows.out_bytes, first)
    kind = rows.kind[first]
    gathers, scatters = is_kind(kind, ("all_gather", "gather")), is_kind(kind, ("reduce_scatter", "scatter"))
    whole = np.maximum(into, out)
    whole[gathers] = np.where(out > 0, out, _times(into, size))[gathers]
    whole[scatters] = np.where(into > 0, into, _times(out, size))[scatters]
    uneven = is_kind(kind, ("all_to_all",)) & (np.minimum.reduceat(rows.in_bytes, first) >= 0)
    mean = np.add.reduceat(np.maximum(rows.in_bytes, 0), first) // meetings.size
    whole[uneven] = mean[uneven]
    whole[is_kind(kind, ("barrier",))] = -1
    return whole


def _times(size_bytes: Int64s, ranks: Int64s) -> Int64s:
    return np.where((size_bytes > 0) & (ranks > 0), size_bytes * ranks, -1)


def _sizes(meetings: Meetings) -> Int64s:
    """Ranks in the group of each meeting, -1 where not known; two for a send and its receive."""
    sizes = np.array([2 if g.pair else g.size or -1 for g in meetings.groups], np.int64)
    return sizes[meetings.rows.group[meetings.first]]


def _measured(meetings: Meetings, arrivals: Arrivals) -> _Measured:
    rows, first = meetings.rows, meetings.first
    spent = rows.end_ns - rows.start_ns
    mean = np.add.reduceat(spent, first) / meetings.size
    total = np.bincount(arrivals.meeting, weights=arrivals.wait_ns, minlength=len(first))
    count = np.bincount(arrivals.meeting, minlength=len(first))
    return _Measured(
        duration_s=np.minimum.reduceat(spent, first) / 1e9,
        present=meetings.size,
        imbalance=_ratio(np.maximum.reduceat(spent, first), np.where(meetings.size > 1, mean, 0)),
        wait_s=_ratio(total / 1e9, count),
        in_switch=np.logical_or.reduceat(rows.in_switch, first),
    )


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Numbers:
    """Elementwise ratio; NaN where the lower is 0."""
    ratio = np.full(len(above), np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _row(kind_number: int, size: int, ranks: int, found: _Measured) -> CollectiveRow:
    """Those at which at least two ranks are at hand, where there are any: one rank's time includes its wait."""
    together = found.present > 1
    found = found.where(together) if together.any() else found
    kind, times = KINDS[kind_number], summarise(found.duration_s)
    known = None if ranks < 0 else ranks
    factor = bus_factor(kind, known)
    algbw = size / times.median if size > 0 and times.median > 0 else None
    enough = times.n >= fewest_for_interval()
    fewest = int(found.present.min())
    return CollectiveRow(
        kind=kind,
        message_bytes=None if size < 0 else size,
        group_size=known,
        n=times.n,
        present_ranks=fewest,
        duration_s=times.median,
        duration_interval_s=times.interval if enough else None,
        min_s=times.min,
        max_s=times.max,
        algbw_bytes_per_s=algbw,
        busbw_bytes_per_s=None if algbw is None or factor is None else algbw * factor,
        busbw_interval_bytes_per_s=_rates(size, factor, times) if enough and algbw is not None else None,
        median_over_min=times.median / times.min if times.min > 0 else None,
        imbalance=_middle(found.imbalance),
        wait_s=_mean(found.wait_s),
        notes=tuple(_notes(kind, fewest, known, bool(found.in_switch.any()))),
    )


def _rates(size: int, factor: float | None, times: Summary) -> Interval | None:
    if factor is None or times.interval[0] <= 0:
        return None
    return (size * factor / times.interval[1], size * factor / times.interval[0])


def _notes(kind: str, present: int, ranks: int | None, in_switch: bool) -> Iterator[str]:
    if in_switch:
        yield "reduced in the switch (NVLS): busbw by the formula for rings can exceed what the links carry"
    if kind in MEETINGS and present < (ranks or 2):
        yield "not all its ranks are at hand: the last to come may be another, then bandwidths are lower than in truth"


def _middle(values: Numbers) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def _mean(values: Numbers) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
