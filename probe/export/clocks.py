"""How do the times of several ranks come onto one axis?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from probe.errors import UsageError
from probe.export.offsets import Offsets

_ONE_RUN_NS = 3600 * 10**9  # ranks of a run are recorded within the hour; clocks that count from boot lie days apart
_SET_ALL_THE_SAME = "the wall clocks of the ranks are not of one run; the ranks are set by the collectives they share"
_OWN_STARTS = "the wall clocks of the ranks are not of one run; each rank begins at its own start"


class Clock(Protocol):
    """What must be known of a trace to place it."""

    @property
    def path(self) -> str:
        """Where it was read."""

    @property
    def rank(self) -> int | None:
        """Whose it is."""

    @property
    def start_unix_ns(self) -> int:
        """Wall-clock time of its nanosecond 0; 0 where it is not recorded."""

    @property
    def first_ns(self) -> int:
        """The first start in it."""


@dataclass(frozen=True)
class Axis:
    """The common axis: its nanosecond 0 is the first start in any of the traces."""

    origin_unix_ns: int
    shifts_ns: tuple[int, ...]  # to be added to the times of each trace
    warnings: tuple[str, ...] = ()


def common_axis(traces: Sequence[Clock], offsets: Offsets) -> Axis:
    """The axis of all traces, by their wall-clock starts, with the clocks set as far as offsets are known.

    Where the wall clocks cannot be those of one run, and not every rank could be set to the same clock, every trace
    begins at its own start; a warning says so.
    """
    missing = sorted(offsets.ns.keys() - {t.rank for t in traces})
    if missing:
        raise UsageError(f"a clock offset for rank {missing[0]}, of which there is no trace; leave it out")
    starts = [t.start_unix_ns for t in traces]
    apart = len(traces) > 1 and (0 in starts or max(starts) - min(starts) > _ONE_RUN_NS)
    begins = [t.start_unix_ns + _offset(t, offsets) for t in traces]
    if apart and not _all_set(traces, offsets):
        return Axis(0, tuple(-t.first_ns for t in traces), (*offsets.warnings, _OWN_STARTS))
    origin = min((b + t.first_ns for b, t in zip(begins, traces, strict=True)), default=0)
    warnings = (*offsets.warnings, _SET_ALL_THE_SAME) if apart else offsets.warnings
    return Axis(0 if apart else origin, tuple(b - origin for b in begins), warnings)


def _offset(trace: Clock, offsets: Offsets) -> int:
    return 0 if trace.rank is None else offsets.ns.get(trace.rank, 0)


def _all_set(traces: Sequence[Clock], offsets: Offsets) -> bool:
    """Whether all are set to the clock of one rank."""
    references = {None if t.rank is None else offsets.reference.get(t.rank) for t in traces}
    return len(references) == 1 and None not in references


def labels(traces: Sequence[Clock]) -> tuple[str, ...]:
    """What to call each trace: "rank 3", its file's name where several have that rank or none, "" for a single one."""
    ranks = [t.rank for t in traces]
    if len(traces) == 1:
        return ("" if ranks[0] is None else f"rank {ranks[0]}",)
    return tuple(_label(t, ranks.count(t.rank) == 1) for t in traces)


def _label(trace: Clock, alone: bool) -> str:
    file = trace.path.replace("\\", "/").rstrip("/").rpartition("/")[2] or "trace"
    if trace.rank is None:
        return file
    return f"rank {trace.rank}" if alone else f"rank {trace.rank} {file}"
