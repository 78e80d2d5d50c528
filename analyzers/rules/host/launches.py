"""H01: the step waits for the host, which takes longer to start operators than they take to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from probe.analyzers.classify import DISPATCHES
from probe.analyzers.operators.call_tree import under
from probe.analyzers.operators.steps import step_of
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.host.full_queue import queue_is_full
from probe.analyzers.rules.matching.claims import below, touched
from probe.analyzers.rules.matching.ledger import OUTLIER
from probe.analyzers.rules.matching.units import MATRIX, RECURRENT
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import loader_intervals
from probe.intervals import length_before
from probe.trace import Int64s, Mask
from probe.units import format_fraction, format_time

MANY = 500  # operators per step, on a CPU
FEWER = 200  # where they take most of the step
FEWEST = 32  # launches per step, of which a typical one can be told
IDLE_FRACTION = 0.15  # of the step
MOST_FRACTION = 0.4  # of the step
REACH = 6  # operators between two that a finding claims, that belong to what it found
# Of the time to start operators on a CPU: compiled code has guards, wrappers and calls of its own. Measured 0.1 to 0.8.
SPARED = 0.5
BACKWARD = ("_backward", "_backward_data")
# Compiled code calls these as they are: with what they call for each matrix of a batch, or for each step in time.
LIBRARY = frozenset("convolution convolution_backward sort topk".split()) | MATRIX
LINEAR_ALGEBRA = ("linalg_", "_linalg_", "fft_", "_fft_", "cholesky", "triangular_solve", "lu_")


def many_tiny(context: Context) -> Iterator[Match]:
    """H01: the host takes longer from launch to launch than the device works; on a CPU, hundreds of tiny operators.

    What other findings claim, and what lies between two operators that they claim, has its explanation.
    """
    if queue_is_full(context):
        return
    rows = _overhead_rows(context)
    free = rows[~(_explained(context) | _stays(context))[rows]]
    spent = _usual_self_ns(context)
    share = float(spent[free].sum()) / max(float(spent[rows].sum()), 1.0) if len(rows) else 1.0
    overhead_s = context.parts["overhead"] * share
    found = _launching(context, overhead_s) if context.trace.on_device else _operators(context, free, overhead_s)
    if found is None:
        return
    summary, saving_s, evidence = found
    replacement, how = _advice(context)
    yield Match(
        rows=tuple(free.tolist()),
        ops=_largest(context, free),
        summary=summary,
        evidence=(
            *evidence,
            f"overhead is {format_time(context.parts['overhead'])} of a step of {format_time(context.step_s)}",
        ),
        saving_s=saving_s,
        where="the whole step",
        replacement=replacement,
        how=how,
    )


def _advice(context: Context) -> tuple[str, str]:
    """What takes the operators' place, and one line to change."""
    if context.trace.on_device:
        return "CUDA graphs or torch.compile", 'step = torch.compile(step, mode="reduce-overhead")'
    if _differentiates_twice(context):
        return "fewer, larger operators", "# operators over whole tensors: torch.compile does not differentiate twice"
    return "torch.compile, or fewer, larger operators", "step = torch.compile(step)"


Floats: TypeAlias = npt.NDArray[np.float64]
_Found: TypeAlias = tuple[str, float | None, tuple[str, ...]]  # summary, saving, evidence


def _launching(context: Context, overhead_s: float) -> _Found | None:
    """On a device: the typical time from one launch to the next exceeds that of what is launched.

    Medians, because a few calls of a step wait, allocate or load code, and those have findings of their own.
    """
    launched, apart_ns = _pace(context)
    if launched < FEWEST:
        return None
    trace = context.trace
    work_s = float(np.median(np.append(trace.kernels.duration_ns, trace.copies.duration_ns))) / 1e9
    apart_s = apart_ns / 1e9
    saving_s = min(overhead_s, launched * apart_s)
    if work_s >= apart_s or saving_s < IDLE_FRACTION * context.step_s:
        return None
    return (
        f"the host takes {format_time(apart_s)} from one launch to the next, {launched:.0f} times per step, and half "
        f"of what it launches runs for less than {format_time(work_s)}: the device waits for {format_time(saving_s)}, "
        f"{format_fraction(saving_s / context.step_s)} of the step",
        saving_s,
        (f"the device is idle or starting work for {format_fraction(overhead_s / context.step_s)} of the step",),
    )


def _pace(context: Context) -> tuple[float, float]:
    """How many calls launch work in a step, and the median time from the start of one to that of the next."""
    trace, calls = context.trace, context.trace.runtime_calls
    launches = np.zeros(len(calls), bool)
    for work in (trace.kernels, trace.copies):
        launches[work.launch[work.launch >= 0]] = True
    rows = np.flatnonzero(launches)
    step = step_of(context.steps, calls.start_ns[rows])
    rows, step = rows[step >= 0], step[step >= 0]
    order = np.lexsort((calls.start_ns[rows], calls.thread[rows], step))
    rows, step = rows[order], step[order]
    same = (np.diff(step) == 0) & (np.diff(calls.thread[rows]) == 0)
    apart = np.diff(calls.start_ns[rows])[same]
    return len(rows) / len(context.steps), float(np.median(apart)) if len(apart) else 0.0


def _operators(context: Context, rows: Int64s, overhead_s: float) -> _Found | None:
    """On a CPU: hundreds of operators that take no longer than their dispatch."""
    overhead_s = max(overhead_s, _in_quietest_step_s(context, rows))
    own_s = context.trace.host_ops.self_ns[rows] / 1e9
    count = len(rows) / len(context.steps)
    if not _many(context, overhead_s, count) or float(np.median(own_s)) > DISPATCHES * context.machine.dispatch_s:
        return None
    twice = _differentiates_twice(context)
    return (
        f"{count:.0f} tiny operators per step, half of them shorter than {format_time(float(np.median(own_s)))}: "
        f"starting them takes {format_time(overhead_s)}, {format_fraction(overhead_s / context.step_s)} of the step",
        None if twice else SPARED * overhead_s,
        (
            f"dispatching one takes {format_time(context.machine.dispatch_s)}",
            "a backward pass is differentiated again, which compiled code cannot be" if twice
            else f"of what starting them takes, compiled code spares about {format_fraction(SPARED)}",
        ),
    )  # fmt: skip


def _differentiates_twice(context: Context) -> bool:
    """Whether autograd records operators that only backward passes call: backward(create_graph=True)."""
    ops = context.trace.host_ops
    backward = context.trace.named(lambda name: name.startswith("aten::") and name.endswith(BACKWARD))[ops.name]
    return bool((backward & (ops.sequence >= 0) & (ops.forward_thread <= 0)).any())


def _in_quietest_step_s(context: Context, rows: Int64s) -> float:
    """What the operators take of the shortest recorded step, as a share of the bare one.

    On a busy machine the other steps, and with them the parts, are mostly pauses in which something else ran.
    """
    shortest = int(np.argmin(context.steps.duration_ns))
    inside = context.groups.step_of_op[rows] == shortest
    spent = float(_usual_self_ns(context)[rows[inside]].sum())
    return spent / max(float(context.steps.duration_ns[shortest]), 1.0) * context.step_s


def _many(context: Context, overhead_s: float, count: float) -> bool:
    """Whether there are enough of them, and their overhead matters."""
    fraction = overhead_s / context.step_s
    if fraction >= IDLE_FRACTION and count >= MANY:
        return True
    return fraction >= MOST_FRACTION and count >= FEWER


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


def _usual_self_ns(context: Context) -> Floats:
    """Own time of each operator; of one that was interrupted, what is usual in its group, [host operators]."""
    own = context.trace.host_ops.self_ns
    usual = 1e9 * context.groups.typical_s[context.groups.of_op]
    return np.where(own > OUTLIER * usual, usual, own)


def _stays(context: Context) -> Mask:
    """Operators that a compiler does not open: those of libraries, recurrent layers with their backward passes.

    On a device none: a CUDA graph launches all there is.
    """
    trace, ops = context.trace, context.trace.host_ops
    if trace.on_device:
        return np.zeros(len(ops), bool)
    library = trace.named(_is_library)[ops.name]
    recurrent = trace.named(RECURRENT.__contains__)[ops.name]
    inside = under(ops.parent, recurrent)
    numbers = ops.sequence[inside & context.differentiated]
    whole = library | recurrent | (np.isin(ops.sequence, numbers) & (ops.forward_thread > 0))
    stays: Mask = whole | under(ops.parent, whole)
    return stays


def _is_library(name: str) -> bool:
    plain = name.removeprefix("aten::")
    return name != plain and (plain in LIBRARY or plain.startswith(LINEAR_ALGEBRA))


def _largest(context: Context, rows: Int64s, most: int = 5) -> tuple[int, ...]:
    """The groups with most of the given operators."""
    counts = np.bincount(context.groups.of_op[rows], minlength=1) if len(rows) else np.zeros(1, np.int64)
    return tuple(int(g) for g in np.argsort(-counts)[:most] if counts[g])


RULES = (
    Rule(
        "H01", "tiny-operators", "more time to start operators than to run them", many_tiny,
        trigger="on a device: the typical time between two launches exceeds that of the typical kernel, and overhead "
        "is 15 % of the step; on a CPU: 500 operators per step that take no longer than their dispatch, and 15 % of "
        "the step, or 200 that take 40 %",
        advice="run them as one graph, or as fewer, larger operators",
        saving="the overhead part of the step, without that of operators which other findings explain or a compiler "
        "leaves as they are; on a CPU half of it, none where a backward pass is differentiated again",
        cannot_show="which of them depend on values that a graph would have to fix",
        proof="module", effort="flag", about="host", needs=(),
        example=Example("loss = step(batch)", 'step = torch.compile(step, mode="reduce-overhead")'),
    ),
)  # fmt: skip
