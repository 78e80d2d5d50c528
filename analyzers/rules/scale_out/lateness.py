"""Which ranks do the others wait for long enough to say so, and when does this rank wait for them?"""

from __future__ import annotations

import numpy as np

from probe.analyzers.rules.context import Context
from probe.intervals import EMPTY, Intervals, union
from probe.results.multirank import Arrivals, RanksAnalysis, Straggler
from probe.trace import Mask

LATE = 0.05  # of the step


def late_ranks(compared: RanksAnalysis | None) -> list[Straggler]:
    """The ranks that come to collectives late by 5 % of their step or more, the one that costs most first."""
    if compared is None:
        return []
    steps = {rank.rank: rank.step_s or 0.0 for rank in compared.ranks}
    late = [one for one in compared.stragglers if one.late_s >= LATE * steps.get(one.rank, 0.0) > 0]
    return sorted(late, key=lambda one: -one.delay_s)


def waits_for_late(context: Context) -> Intervals:
    """When this rank is in a collective to which all have come but a late one; its own trace's nanoseconds."""
    late, rank = late_ranks(context.compared), context.trace.rank or 0
    if not late or context.compared is None:
        return EMPTY
    arrivals = context.compared.arrivals
    delays = _delays(arrivals, np.isin(arrivals.rank, [one.rank for one in late]))
    own = arrivals.rank == rank
    waited = np.minimum(delays[arrivals.meeting[own]], arrivals.wait_ns[own])
    offset_s = next((one.offset_s or 0.0 for one in context.compared.offsets if one.rank == rank), 0.0)
    ends = arrivals.start_ns[own] + arrivals.wait_ns[own] + round(offset_s * 1e9) - context.trace.start_unix_ns
    return union(ends - waited, ends)


def _delays(arrivals: Arrivals, of: Mask) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """By how much the last came after the next to last, where it is one `of` these, [meetings]; else 0."""
    delays = np.zeros(int(arrivals.meeting.max(initial=-1)) + 1, np.int64)
    np.maximum.at(delays, arrivals.meeting[of], arrivals.delay_ns[of])
    return delays
