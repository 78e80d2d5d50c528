"""What a step without a device waits for: its main thread, and the threads that take turns with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analysis import Bound
from probe.analyzers.op_table import OpGroups
from probe.analyzers.timeline.idle import Claim, pauses_between
from probe.analyzers.timeline.pieces import exclusive
from probe.analyzers.timeline.threads import any_busy, is_operator, loader_intervals, main_thread, workers
from probe.intervals import union
from probe.trace import Trace

KINDS: tuple[Bound, ...] = ("compute", "memory", "latency", "overhead", "communication", "host", "unknown")


def host_claims(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], gap_ns: int) -> Iterator[Claim]:
    """The wait for data, the main thread's operators by their class, innermost first, its workers', then the pauses.

    Where the main thread is in a named range only, a worker's operator is what the step waits for.
    """
    yield Claim("host", loader_intervals(trace), "loader")
    ops = trace.host_ops
    main, helping = ops.thread == main_thread(trace), workers(trace)
    starts, ends, rows = exclusive(ops.start_ns, ops.end_ns, ops.parent, main | np.isin(ops.thread, helping))
    kinds = groups.of_calls(bounds)[rows]
    first = main[rows] & trace.named(is_operator)[ops.name[rows]] if len(rows) else main[rows]
    for own in (first, ~main[rows], main[rows] & ~first):
        for part in KINDS:
            chosen = own & (kinds == part)
            yield Claim(part, union(starts[chosen], ends[chosen]))
    threads = np.append(helping, np.int32(main_thread(trace)))
    short, long = pauses_between(any_busy(trace, threads), trace.span_ns, gap_ns)
    yield Claim("overhead", short, "launch")
    yield Claim("host", long, "python")
