"""Which steps a trace covers, and how long they took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probe.analysis import StepTimes, Throughput
from probe.intervals import Intervals, intersection, union
from probe.run import Numbers, RankPart
from probe.run import StepTimes as Durations
from probe.stats import percentile
from probe.trace import Int32s, Int64s, Mask, Steps, Trace

WHOLE_SPAN = "no step marks in the trace: the span from the first to the last event counts as one step"
WARM_FACTOR = 1.5  # a step this much longer than the typical one, before any that is not, was warming up


def recorded_steps(trace: Trace) -> Steps:
    """The trace's steps; where none are marked, one from the first to the last event."""
    if len(trace.steps):
        return trace.steps
    start, end = trace.span_ns
    return Steps(number=np.zeros(1, np.int64), start_ns=np.array([start]), end_ns=np.array([end]))


def step_of(steps: Steps, instant_ns: Int64s) -> Int32s:
    """For each instant the row of the step it falls into, -1 for none; the last step includes its end."""
    at = np.searchsorted(steps.start_ns, instant_ns, side="right") - 1
    inside = (at >= 0) & (instant_ns < np.maximum(steps.end_ns, steps.start_ns + 1)[np.maximum(at, 0)])
    return np.where(inside, at, -1).astype(np.int32)


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
