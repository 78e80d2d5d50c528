"""H01: the step waits for the host, which starts many tiny operators."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.call_tree import under
from probe.analyzers.classify import DISPATCHES
from probe.analyzers.op_table import Seconds
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.host.full_queue import queue_is_full
from probe.analyzers.rules.matching.claims import below, touched
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import loader_intervals
from probe.intervals import length_before
from probe.trace import Int64s, Mask
from probe.units import format_fraction, format_time

TINY_S = 10e-6  # a kernel shorter than this is about as long as its launch
MANY = 500  # of them per step
FEWER = 200  # on a CPU, where they take most of the step
IDLE_FRACTION = 0.15  # of the step
MOST_FRACTION = 0.4  # of the step
REACH = 6  # operators between two that a finding claims, that belong to what it found


def many_tiny(context: Context) -> Iterator[Match]:
    """H01: hundreds of kernels, or on a CPU operators, that cost more to start than to run.

    What other findings claim, and what lies between two operators that they claim, has its explanation.
    """
    if queue_is_full(context):
        return
    rows = _overhead_rows(context)
    free = rows[~_explained(context)[rows]]
    spent = context.trace.host_ops.self_ns
    share = float(spent[free].sum()) / max(float(spent[rows].sum()), 1.0) if len(rows) else 1.0
    overhead_s = max(context.parts["overhead"] * share, _in_quietest_step_s(context, free))
    durations, what, limit_s = _tiny(context, free)
    count = len(durations) / len(context.steps)
    if not _many(context, overhead_s, count) or float(np.median(durations)) > limit_s:
        return
    on_device = context.trace.on_device
    yield Match(
        rows=tuple(free.tolist()),
        ops=_largest(context, free),
        summary=(
            f"{count:.0f} tiny {what} per step, half of them shorter than {format_time(float(np.median(durations)))}: "
            f"starting them takes {format_time(overhead_s)}, {format_fraction(overhead_s / context.step_s)} of the step"
        ),
        evidence=(
            f"dispatching one takes {format_time(context.machine.dispatch_s)}",
            f"overhead is {format_time(context.parts['overhead'])} of a step of {format_time(context.step_s)}",
        ),
        saving_s=overhead_s,
        where="the whole step",
        replacement="CUDA graphs or torch.compile" if on_device else "torch.compile, or fewer, larger operators",
        how='step = torch.compile(step, mode="reduce-overhead")' if on_device else "step = torch.compile(step)",
    )


def _in_quietest_step_s(context: Context, rows: Int64s) -> float:
    """On a CPU what the operators take of the shortest recorded step, as a share of the bare one.

    On a busy machine the other steps, and with them the parts, are mostly pauses in which something else ran.
    """
    if context.trace.on_device:
        return 0.0
    shortest = int(np.argmin(context.steps.duration_ns))
    inside = context.groups.step_of_op[rows] == shortest
    spent = float(context.trace.host_ops.self_ns[rows[inside]].sum())
    return spent / max(float(context.steps.duration_ns[shortest]), 1.0) * context.step_s


def _many(context: Context, overhead_s: float, count: float) -> bool:
    """Whether there are enough of them, and their overhead matters."""
    fraction = overhead_s / context.step_s
    if fraction >= IDLE_FRACTION and count >= MANY:
        return True
    return not context.trace.on_device and fraction >= MOST_FRACTION and count >= FEWER


def _overhead_rows(context: Context) -> Int64s:
    """The operators of the steps whose time is overhead."""
    bounds = context.groups.of_calls(context.bounds)
    inside = context.groups.step_of_op >= 0
    return np.flatnonzero((bounds == "overhead") & inside & (context.trace.host_ops.self_ns > 0))


def _explained(context: Context) -> Mask:
    """Which operators other findings explain: those claimed, what they call, and what lies close around them."""
    ops = context.trace.host_ops
    tops = np.flatnonzero(ops.parent < 0)
    at_top = touched(context)[tops]
    places = np.arange(len(tops))
    last = np.maximum.accumulate(np.where(at_top, places, -REACH - 1))
    following = np.minimum.accumulate(np.where(at_top, places, len(tops) + REACH)[::-1])[::-1]
    between = np.zeros(len(ops), bool)
    between[tops] = (places - last <= REACH) & (following - places <= REACH)
    waits = loader_intervals(context.trace)
    loading = length_before(waits, ops.end_ns) > length_before(waits, ops.start_ns)
    explained: Mask = below(context) | between | under(ops.parent, between) | loading
    return explained


def _tiny(context: Context, rows: Int64s) -> tuple[Seconds, str, float]:
    """What is counted, in seconds, its name, and how long one may be to be tiny."""
    if context.trace.on_device:
        return context.trace.kernels.duration_ns / 1e9, "kernels", TINY_S
    return context.trace.host_ops.self_ns[rows] / 1e9, "operators", DISPATCHES * context.machine.dispatch_s


def _largest(context: Context, rows: Int64s, most: int = 5) -> tuple[int, ...]:
    """The groups with most of the given operators."""
    counts = np.bincount(context.groups.of_op[rows], minlength=1) if len(rows) else np.zeros(1, np.int64)
    return tuple(int(g) for g in np.argsort(-counts)[:most] if counts[g])


RULES = (
    Rule(
        "H01", "tiny-operators", "more time to start operators than to run them", many_tiny,
        trigger="500 kernels or operators per step that take no longer than their dispatch, and 15 % of the step; "
        "on a CPU also 200 that take 40 %",
        advice="run them as one graph, or as fewer, larger operators",
        saving="the overhead part of the step, without that of operators which other findings explain",
        cannot_show="which of them depend on values that a graph would have to fix",
        proof="module", effort="flag", about="host", needs=(),
        example=Example("loss = step(batch)", 'step = torch.compile(step, mode="reduce-overhead")'),
    ),
)  # fmt: skip
