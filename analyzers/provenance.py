"""What the figures stand on: what the trace holds and lacks, what was left out, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.cost_models.coverage import Coverage
from probe.analyzers.operators.steps import WHOLE_SPAN
from probe.machine.device import Ceilings
from probe.results.analysis import StepTimes, TraceQuality
from probe.trace import Trace
from probe.units import format_time

UNSTEADY_FACTOR = 1.5  # between kinds of steps; recording itself may slow tiny operators by up to three times
WORTH_TELLING = 0.05  # of the device's time
WELL_KNOWN = 0.95  # share of the time with a known cost above which nothing is said of the rest


def caveats(trace: Trace, covered: Coverage, ceilings: Ceilings, times: StepTimes) -> Iterator[str]:
    """Warnings that follow from what was computed."""
    if not len(trace.steps):
        yield WHOLE_SPAN
    yield from _unsteady(times)
    launching = len({trace.threads[thread].process for thread in np.unique(trace.runtime_calls.thread).tolist()})
    if launching > 1:
        yield (
            f"{launching} processes call the device in this file and are added up as one; "
            "analyze each rank's own file, or their directory"
        )
    yield from _of_earlier_steps(trace)
    if covered.known_fraction is not None and covered.known_fraction < WELL_KNOWN:
        first = covered.unknown[0]
        what = "device" if trace.on_device else "operator"
        yield (
            f"the cost of {1 - covered.known_fraction:.0%} of the {what} time is not known; "
            f"most of it is {first.name}: {first.reason}"
        )
    if ceilings.origin != "measured":
        yield f"ceilings are {ceilings.origin}, not measured: run `probe run microbench` on {ceilings.device}"
    elif ceilings.quick:
        yield "ceilings are of a --quick measurement; `probe run microbench` measures them fully"


def _of_earlier_steps(trace: Trace) -> Iterator[str]:
    """What to say where much of the device's time is work that was launched before the recording began."""
    durations = [(work.duration_ns, (work.launch < 0) & (work.op < 0)) for work in (trace.kernels, trace.copies)]
    every = sum(int(ns.sum()) for ns, _ in durations)
    earlier = sum(int(ns[rows].sum()) for ns, rows in durations)
    if len(trace.runtime_calls) and every and earlier > WORTH_TELLING * every:
        yield (
            f"{earlier / every:.0%} of the device's time is work that no recorded call launched, of an earlier step: "
            "it counts in the parts of the step, but in no operator's figures"
        )


def _unsteady(times: StepTimes) -> Iterator[str]:
    """What to say of steps that differ so much that their mean describes none of them."""
    bare, profiled = times.bare_mean_s, times.profiled_mean_s
    if bare and profiled and not 1 / UNSTEADY_FACTOR <= profiled / bare <= 2 * UNSTEADY_FACTOR:
        yield (
            f"recorded steps took {format_time(profiled)}, bare ones {format_time(bare)}: "
            "the machine was busy, or the steps differ; record it again before believing the parts"
        )
    elif times.n >= 10 and times.p50_s and times.p95_s and times.p95_s > UNSTEADY_FACTOR * times.p50_s:
        yield (
            f"steps vary: p95 {format_time(times.p95_s)} against p50 {format_time(times.p50_s)}; "
            "the machine was busy, or the program was still warming up"
        )


def quality(trace: Trace, excluded_work: int, covered: Coverage) -> TraceQuality:
    """How many events stand behind the figures, why others do not, and what of those that do is not as it should be."""
    excluded = trace.quality.dropped + excluded_work
    return TraceQuality(
        included=trace.quality.events - excluded,
        excluded=excluded,
        reasons=tuple(_reasons(trace, excluded_work)),
        known_cost_fraction=covered.known_fraction,
    )


def _reasons(trace: Trace, excluded_work: int) -> Iterator[str]:
    """Each count of the trace's quality in words, with what it means for the figures."""
    read = trace.quality
    if read.truncated:
        yield "the file is cut: what followed the cut is missing"
    work = "kernel or copy"
    nor_operator = _without_both(trace)
    for count, what, why in (
        (read.dropped, "event", "could not be read"),
        (excluded_work, work, "outside every recorded step, or of an earlier one"),
        (
            read.unlaunched,
            work,
            f"without a launch{' or operator' * nor_operator} in the trace: {_why_unlaunched(trace)}",
        ),
        (read.unattributed * (not nor_operator), work, "without an operator: in no operator's figures"),
        (read.replayed, work, "run by the replay of a graph: in the figures of the operator that replayed it"),
        (read.unfinished, "launch call", "without device work: it had not ended when the recording did"),
        (read.duplicated, "operator", "with the external id of another: it names neither"),
        (read.overlapping, work, "begun before earlier work of the same stream had ended"),
        (read.clamped, "operator", "cut at the end of the operator that called it, which it outlasted"),
        (read.unknown_devices, "event", "of a device that probe does not know: no roofs"),
    ):
        if count:
            yield f"{count} {plural(what, count)} {why}"


def _without_both(trace: Trace) -> bool:
    """Whether the work without a launch is the work without an operator: one thing to tell, not two."""
    same = all(bool(((w.launch < 0) == (w.op < 0)).all()) for w in (trace.kernels, trace.copies))
    return same and trace.quality.unlaunched == trace.quality.unattributed


def _why_unlaunched(trace: Trace) -> str:
    if not len(trace.runtime_calls):
        return "it records no runtime calls"
    return "launched before the recording began, or without a correlation id"


def recorded_parts(trace: Trace) -> Iterator[str]:
    """What the trace holds, counted."""
    for count, what in (
        (len(trace.steps), "step"),
        (len(trace.host_ops), "operator call"),
        (len(trace.kernels), "kernel"),
        (len(trace.copies), "copy or memset"),
        (len(trace.collectives), "collective"),
    ):
        if count:
            yield f"{count} {plural(what, count)}"
    for present, what in ((trace.with_shapes, "shapes"), (trace.with_memory, "memory"), (trace.with_stacks, "stacks")):
        if present:
            yield what


def plural(noun: str, count: int) -> str:
    """`noun` in the number that `count` asks for."""
    words = noun.split(" or ")
    return noun if count == 1 else " or ".join(w[:-1] + "ies" if w.endswith("y") else w + "s" for w in words)


def missing_parts(trace: Trace) -> Iterator[str]:
    """What is missing, each with the option that records it."""
    for present, what in (
        (len(trace.steps), "steps (call step() in the loop)"),
        (trace.with_shapes, "shapes (record_shapes=True; probe.profile records them)"),
        (trace.with_memory, "memory (memory=True)"),
        (trace.with_stacks, "stacks (stacks=True)"),
    ):
        if not present:
            yield what
