"""What a step without a device waits for: its main thread, and the threads that take turns with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from probe.analyzers.operators.op_table import OpGroups
from probe.analyzers.timeline.idle import Claim, pauses_between
from probe.analyzers.timeline.pieces import exclusive
from probe.analyzers.timeline.threads import (
    any_busy,
    exchange_intervals,
    is_operator,
    loader_intervals,
    main_thread,
    workers,
)
from probe.intervals import union
from probe.results.analysis import Bound
from probe.trace import Int64s, Mask, Trace

KINDS: tuple[Bound, ...] = ("compute", "memory", "latency", "overhead", "communication", "host", "unknown")


def host_claims(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], gap_ns: int) -> Iterator[Claim]:
    """The wait for data, the main thread's operators by their class, innermost first, its workers', what
    other ranks are exchanged with meanwhile, then the pauses.

    Where the main thread is in a named range only, a worker's operator is what the step waits for.
    """
    yield Claim("host", loader_intervals(trace), "loader")
    ops = trace.host_ops
    main, helping = ops.thread == main_thread(trace), workers(trace)
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, main | np.isin(ops.thread, helping))
    kinds = groups.of_calls(bounds)[rows]
    first = main[rows] & trace.named(is_operator)[ops.name[rows]] if len(rows) else main[rows]
    for own in (first, ~main[rows]):
        yield from _by_kind(starts, ends, kinds, own)
    yield Claim("communication", exchange_intervals(trace))  # no operator runs: the step waits for other ranks
    yield from _by_kind(starts, ends, kinds, main[rows] & ~first)
    threads = np.append(helping, np.int32(main_thread(trace)))
    short, long = pauses_between(any_busy(trace, threads), trace.span_ns, gap_ns)
    yield Claim("overhead", short, "launch")
    yield Claim("host", long, "python")


def _by_kind(starts: Int64s, ends: Int64s, kinds: npt.NDArray[np.str_], own: Mask) -> Iterator[Claim]:
    for part in KINDS:
        chosen = own & (kinds == part)
        yield Claim(part, union(starts[chosen], ends[chosen]))
