"""Which steps a trace covers, and how long they took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probe.intervals import Intervals, intersection, union
from probe.results.analysis import StepTimes, Throughput
from probe.runs.run import Numbers, RankPart
from probe.runs.run import StepTimes as Durations
from probe.stats import percentile
from probe.trace import DeviceWork, Int32s, Int64s, Mask, Steps, Trace

WHOLE_SPAN = "no step marks in the trace: the span from the first to the last event counts as one step"
AHEAD = (
    "the host runs ahead of the device: each step is counted until the device had finished its work, not until its mark"
)
# The device's work must take longer than the marks by this share before it cuts the steps; less is the work that was
# in its queue when the last mark ended.
AHEAD_FRACTION = 0.01
EARLIER = -2  # in place of the row of a step: the work was launched before the first
WARM_FACTOR = 1.5  # a step this much longer than the typical one, before any that is not, was warming up


def recorded_steps(trace: Trace) -> Steps:
    """The trace's steps; where none are marked, one from the first to the last event, or of the window chosen of it."""
    if len(trace.steps):
        return trace.steps
    start, end = trace.span_ns
    if trace.window_ns is not None:  # what reaches into it is there as a whole, but not counted beyond it
        start, end = max(start, trace.window_ns[0]), min(end, trace.window_ns[1])
    return Steps(number=np.zeros(1, np.int64), start_ns=np.array([start]), end_ns=np.array([end]))


def step_of(steps: Steps, instant_ns: Int64s) -> Int32s:
    """For each instant the row of the step it falls into, -1 for none; the last step includes its end."""
    at = np.searchsorted(steps.start_ns, instant_ns, side="right") - 1
    inside = (at >= 0) & (instant_ns < np.maximum(steps.end_ns, steps.start_ns + 1)[np.maximum(at, 0)])
    return np.where(inside, at, -1).astype(np.int32)


def cut_by_device(trace: Trace, marks: Steps) -> Steps:
    """The steps, each until the device has finished its work, where that takes longer than the marks say.

    A loop that does not wait for the device runs ahead of it: its marks then end before the work of their steps has
    begun. Over all steps the slower of the two sets the pace, so the steps are its.
    """
    if not len(marks) or not trace.on_device:
        return marks
    begun, done = paced(marks.start_ns, marks.end_ns, *finished(trace, marks))
    marked = int(marks.duration_ns.sum())
    if int((done - begun).sum()) <= (1 + AHEAD_FRACTION) * marked:
        return marks
    return Steps(number=marks.number, start_ns=begun, end_ns=done)


def paced(starts: Int64s, ends: Int64s, worked_until: Int64s, before: int) -> tuple[Int64s, Int64s]:
    """Steps (starts, ends) that last until their device work is done, and begin when that of the step before is.

    worked_until: end of the last device work of each step. before: end of the work of steps before the first.
    """
    done = np.maximum.accumulate(np.maximum(ends, worked_until))
    return np.maximum(starts, np.append(before, done[:-1])), done


def finished(trace: Trace, marks: Steps) -> tuple[Int64s, int]:
    """When the device finished the work that each step launched, [steps], and that of the steps before the first."""
    step, start, end = _work_of_steps(trace, marks)
    until = np.full(len(marks), np.iinfo(np.int64).min)
    np.maximum.at(until, step[step >= 0], end[step >= 0])
    first = int(start[step >= 0].min(initial=np.iinfo(np.int64).max))
    return until, int(end[(step == EARLIER) & (start < first)].max(initial=marks.start_ns[0]))


def _work_of_steps(trace: Trace, marks: Steps) -> tuple[Int64s, Int64s, Int64s]:
    """Of all device work: the row of the step that launched it, -1 for none, EARLIER for one before; start and end."""
    tables = (trace.kernels, trace.copies)
    step = np.concatenate([work_steps(trace, work, marks) for work in tables])
    return step, np.concatenate([t.start_ns for t in tables]), np.concatenate([t.end_ns for t in tables])


def work_steps(trace: Trace, work: DeviceWork, marks: Steps) -> Int64s:
    """The row of the step that launched each piece of device work: -1 for none, EARLIER for one before the first."""
    issued = np.append(trace.runtime_calls.start_ns, -1)[work.launch]
    owned = work.op >= 0
    issued[owned] = trace.host_ops.start_ns[work.op[owned]]
    known = owned | (work.launch >= 0)
    step = np.where(known, step_of(marks, issued), -1).astype(np.int64)
    recorded = len(trace.runtime_calls) > 0 or bool(owned.any())
    if not recorded:
        return step_of(marks, work.start_ns).astype(np.int64)
    step[~known | (issued < marks.start_ns[0])] = EARLIER
    return step


def step_times(steps: Steps) -> StepTimes:
    """Times of steps that were all recorded by the profiler; the bare time is not known from a trace alone."""
    durations = steps.duration_ns / 1e9
    return summary(durations, bare=(), profiled=durations, throughput=Throughput(None, None))


def run_times(part: RankPart) -> StepTimes:
    """Times of all steps of a run, with the bare and the profiled ones apart, and the throughput of the bare ones."""
    steps = part.steps
    bare = warm(steps)
    counted = bare if bare.any() else np.ones(len(steps), bool)
    return summary(
        steps.durations_ns / 1e9,
        bare=steps.durations_ns[bare] / 1e9,
        profiled=steps.profiled_ns / 1e9,
        throughput=Throughput(_rate(steps, steps.samples, counted), _rate(steps, steps.tokens, counted)),
    )


def warm(steps: Durations) -> Mask:
    """The bare steps without those at the beginning that were still warming up: well above the typical bare step."""
    bare = steps.is_bare.copy()
    if bare.any():
        typical = float(np.median(steps.durations_ns[bare]))
        for row in np.flatnonzero(bare):
            if steps.durations_ns[row] <= WARM_FACTOR * typical:
                break
            bare[row] = False
    return bare


def mean_data_wait_s(part: RankPart) -> float | None:
    """Mean wait for data per profiled step (per bare step, where none was profiled); None where not measured."""
    waits = part.steps.data_wait_ns
    if waits is None:
        return None
    chosen = part.steps.of_phase("active")
    known = waits[chosen if chosen.any() else part.steps.is_bare]
    known = known[~np.isnan(known)]
    return float(known.mean()) / 1e9 if len(known) else None


def _rate(steps: Durations, told: Numbers | None, counted: Mask) -> float | None:
    """What the counted steps got through per second; None where none of them was told."""
    if told is None:
        return None
    known = counted & ~np.isnan(told)
    seconds = float(steps.durations_ns[known].sum()) / 1e9
    return float(told[known].sum()) / seconds if seconds > 0 else None


def summary(
    every: Sequence[float] | np.ndarray, bare: Sequence[float] | np.ndarray, profiled: Sequence[float] | np.ndarray,
    throughput: Throughput,
) -> StepTimes:  # fmt: skip
    """Summary of step durations in seconds: all that were timed, those without and those under the profiler."""
    if not len(every):
        return StepTimes(0, None, None, None, None, None, throughput)
    return StepTimes(
        n=len(every),
        mean_s=float(np.mean(every)),
        p50_s=percentile(every, 50),
        p95_s=percentile(every, 95),
        bare_mean_s=float(np.mean(bare)) if len(bare) else None,
        profiled_mean_s=float(np.mean(profiled)) if len(profiled) else None,
        throughput=throughput,
    )


def busy_fraction(trace: Trace, steps: Steps) -> float | None:
    """Share of the steps in which the device works; on a CPU, in which an operator runs on any thread."""
    if trace.on_device:
        starts = np.concatenate([trace.kernels.start_ns, trace.copies.start_ns])
        ends = np.concatenate([trace.kernels.end_ns, trace.copies.end_ns])
    elif trace.device.kind == "cpu":
        starts, ends = trace.host_ops.start_ns, trace.host_ops.end_ns
    else:
        return None
    total = int(steps.duration_ns.sum())
    return within(union(starts, ends), steps).length_ns / total if total else None


def within(busy: Intervals, steps: Steps) -> Intervals:
    """The part of `busy` that lies inside the steps."""
    return intersection(busy, union(steps.start_ns, steps.end_ns))
