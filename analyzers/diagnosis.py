"""From a trace to the answer: put the tables together into one Analysis."""

from __future__ import annotations

from collections.abc import Iterator

from probe.analysis import PARTS, Analysis, Source, StepTimes, TraceQuality, Utilisation
from probe.analyzers.op_table import group_operators, operators
from probe.analyzers.steps import WHOLE_SPAN, busy_fraction, recorded_steps, step_times
from probe.device import Ceilings
from probe.trace import Trace

NOT_CLASSIFIED = "bounds, parts of the step and findings are not computed by this version: they are null or unknown"


def diagnose(
    trace: Trace, source: Source, *, timed: StepTimes | None = None, ceilings: Ceilings | None = None,
    warnings: tuple[str, ...] = (),
) -> Analysis:  # fmt: skip
    """Everything probe can say of `trace`.

    timed: step times measured outside the trace, with and without the profiler; else those of the trace's own marks.
    warnings: what the reader of the source already had to say.
    """
    steps = recorded_steps(trace)
    groups = group_operators(trace, steps)
    return Analysis(
        source=source,
        quality=_quality(trace, groups.excluded_work),
        ceilings=ceilings,
        steps=timed or step_times(steps),
        bound="unknown",
        time_s={"step": float(steps.duration_ns.mean()) / 1e9, **dict.fromkeys(PARTS)},
        time_interval_s=dict.fromkeys(("step", *PARTS)),
        utilisation=Utilisation(busy_fraction(trace, steps)),
        ops=operators(groups, steps, trace.on_device),
        findings=(),
        ranks=(),
        memory=None,
        warnings=(*warnings, *trace.warnings, *(() if len(trace.steps) else (WHOLE_SPAN,)), NOT_CLASSIFIED),
        recorded=tuple(_recorded(trace)),
        not_recorded=tuple(_not_recorded(trace)),
    )


def _quality(trace: Trace, excluded_work: int) -> TraceQuality:
    quality = trace.quality
    reasons = (
        (quality.dropped, "could not be read"),
        (excluded_work, "kernels and copies belong to no recorded step"),
    )
    excluded = sum(count for count, _ in reasons)
    return TraceQuality(
        included=quality.events - excluded,
        excluded=excluded,
        reasons=tuple(f"{count} {reason}" for count, reason in reasons if count),
    )


def _recorded(trace: Trace) -> Iterator[str]:
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


def _not_recorded(trace: Trace) -> Iterator[str]:
    """What is missing, each with the option that records it."""
    for present, what in (
        (len(trace.steps), "steps (call step() in the loop)"),
        (trace.with_shapes, "shapes (record_shapes=True; probe.profile records them)"),
        (trace.with_memory, "memory (memory=True)"),
        (trace.with_stacks, "stacks (stacks=True)"),
    ):
        if not present:
            yield what
