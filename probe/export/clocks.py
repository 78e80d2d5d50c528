"""How do the times of several ranks come onto one axis?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probe.errors import UsageError
from probe.trace import Trace

_ONE_RUN_NS = 3600 * 10**9  # ranks of a run are recorded within the hour; clocks that count from boot lie days apart


@dataclass(frozen=True)
class Axis:
    """The common axis: its nanosecond 0 is the first start in any of the traces."""

    origin_unix_ns: int
    shifts_ns: tuple[int, ...]  # to be added to the times of each trace
    warnings: tuple[str, ...] = ()


def common_axis(traces: Sequence[Trace], offsets_ns: Mapping[int, int] | None = None) -> Axis:
    """The axis of all traces, by their wall-clock starts; `offsets_ns` is added to the times of the ranks it names.

    Where the wall clocks cannot be those of one run every trace begins at its own start, and a warning says so.
    """
    offsets = dict(offsets_ns or {})
    missing = sorted(offsets.keys() - {t.rank for t in traces})
    if missing:
        raise UsageError(f"a clock offset for rank {missing[0]}, of which there is no trace; leave it out")
    starts = [t.start_unix_ns for t in traces]
    apart = len(traces) > 1 and (0 in starts or max(starts) - min(starts) > _ONE_RUN_NS)
    begins = [0 if apart else start for start in starts]
    begins = [b + (0 if t.rank is None else offsets.get(t.rank, 0)) for b, t in zip(begins, traces, strict=True)]
    firsts = [_first_ns(t) for t in traces]
    if apart:  # each from its own first event, wherever its clock began
        begins = [b - f for b, f in zip(begins, firsts, strict=True)]
    origin = min((b + f for b, f in zip(begins, firsts, strict=True)), default=0)
    warning = "the wall clocks of the ranks are not of one run; each rank begins at its own start"
    return Axis(0 if apart else origin, tuple(b - origin for b in begins), (warning,) if apart else ())


def _first_ns(trace: Trace) -> int:
    """The first start in the trace, on its own clock."""
    steps = trace.steps.start_ns
    tables = (trace.host_ops, trace.runtime_calls, trace.kernels, trace.copies, trace.annotations)
    starts = [int(t.start_ns.min()) for t in tables if len(t)] + ([int(steps.min())] if len(steps) else [])
    return min(starts, default=0)


def labels(traces: Sequence[Trace]) -> tuple[str, ...]:
    """What to call each trace: "rank 3", its file's name where several have that rank or none, "" for a single one."""
    ranks = [t.rank for t in traces]
    if len(traces) == 1:
        return ("" if ranks[0] is None else f"rank {ranks[0]}",)
    return tuple(_label(t, ranks.count(t.rank) == 1) for t in traces)


def _label(trace: Trace, alone: bool) -> str:
    file = trace.path.replace("\\", "/").rstrip("/").rpartition("/")[2] or "trace"
    if trace.rank is None:
        return file
    return f"rank {trace.rank}" if alone else f"rank {trace.rank} {file}"
