"""What a step's time was spent on: every instant counted once, on the thing the step waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from probe.analyzers.classify import DISPATCHES
from probe.analyzers.operators.op_table import OpGroups
from probe.analyzers.timeline.device import device_busy, device_claims
from probe.analyzers.timeline.host import host_claims
from probe.analyzers.timeline.idle import Claim, idle_claims
from probe.analyzers.timeline.threads import any_busy, main_thread, workers
from probe.intervals import Intervals, length_before, parted, union
from probe.results.analysis import IDLE_CAUSES, PARTS, Bound
from probe.trace import Steps, Trace

ENDING = ("launch", "python", "operators", "unknown")  # causes of which a step's end is the better name


@dataclass(frozen=True, eq=False)
class PartTable:
    """Seconds per part and step, [parts, steps], in the order of PARTS.

    waiting: of those, the seconds in which nothing runs, by cause, in the order of IDLE_CAUSES: [causes, parts, steps].
    On a device nothing runs there, on a CPU no operator on the threads that the step waits for.
    """

    seconds: npt.NDArray[np.float64]
    waiting: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((len(IDLE_CAUSES), len(PARTS), 0)))

    def of(self, part: str) -> npt.NDArray[np.float64]:
        """One part's seconds in each step, [steps]."""
        row: npt.NDArray[np.float64] = self.seconds[PARTS.index(part)]
        return row

    def idle_s(self, corrected: dict[str, float]) -> dict[str, float]:
        """Mean seconds per step in which nothing runs, by cause; each part's share corrected as the part's mean was."""
        if not self.waiting.shape[2]:
            return dict.fromkeys(IDLE_CAUSES, 0.0)
        mean, whole = self.waiting.mean(axis=2), self.seconds.mean(axis=1)
        scale = np.array([corrected[part] for part in PARTS]) / np.where(whole > 0, whole, 1.0)
        return dict(zip(IDLE_CAUSES, (mean @ scale).tolist(), strict=True))


def partition(trace: Trace, steps: Steps, groups: OpGroups, bounds: tuple[Bound, ...], dispatch_s: float) -> PartTable:
    """Split each step. bounds: the class of each group; dispatch_s: cost of dispatching one operator."""
    gap_ns = int(DISPATCHES * dispatch_s * 1e9)
    seconds = np.zeros((len(PARTS), len(steps)))
    waiting = np.zeros((len(IDLE_CAUSES), len(PARTS), len(steps)))
    free, ends = union(steps.start_ns, steps.end_ns), _tails(trace, steps)
    for claim in _claims(trace, groups, bounds, gap_ns):  # one after another: each is large
        part = PARTS.index(claim.part)
        taken, free = parted(free, claim.intervals)
        seconds[part] += _in_steps(taken, steps)
        for cause, which in _by_cause(claim.cause, taken, ends):
            waiting[IDLE_CAUSES.index(cause), part] += _in_steps(which, steps)
    seconds[PARTS.index("idle")] += _in_steps(free, steps)
    for cause, which in _by_cause("unknown", free, ends):
        waiting[IDLE_CAUSES.index(cause), PARTS.index("idle")] += _in_steps(which, steps)
    return PartTable(seconds, waiting)


def _claims(trace: Trace, groups: OpGroups, bounds: tuple[Bound, ...], gap_ns: int) -> Iterator[Claim]:
    """What claims the instants of a step, in the order in which they may."""
    if not trace.on_device:
        yield from host_claims(trace, groups, bounds, gap_ns)
        return
    for part, intervals in device_claims(trace, groups, bounds):
        yield Claim(part, intervals)
    yield from idle_claims(trace, gap_ns)


def _by_cause(cause: str | None, taken: Intervals, ends: Intervals) -> Iterator[tuple[str, Intervals]]:
    """The idle time of a claim: at the end of a step that is the cause, unless a surer one is known."""
    if cause is None:
        return
    if cause not in ENDING:
        yield cause, taken
        return
    at_end, before = parted(taken, ends)
    yield "end_of_step", at_end
    yield cause, before


def _tails(trace: Trace, steps: Steps) -> Intervals:
    """From the last work of each step to its end, where nothing runs when it ends."""
    threads = np.append(workers(trace), np.int32(main_thread(trace))) if not trace.on_device else None
    busy = device_busy(trace) if threads is None else any_busy(trace, threads)
    if not len(busy) or not len(steps):
        return union([], [])
    last = np.searchsorted(busy.starts, steps.end_ns, side="left") - 1
    ended = np.append(busy.ends, 0)[last]
    starts = np.where((last >= 0) & (ended >= steps.start_ns), ended, steps.end_ns)
    return union(starts, steps.end_ns)


def _in_steps(covered: Intervals, steps: Steps) -> npt.NDArray[np.float64]:
    """Seconds that are covered in each step, [steps]."""
    return np.asarray((length_before(covered, steps.end_ns) - length_before(covered, steps.start_ns)) / 1e9)
