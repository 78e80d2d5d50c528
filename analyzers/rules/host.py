"""H01, H07, H08: the step waits for the host: for many tiny launches, or for data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.classify import DISPATCHES
from probe.analyzers.op_table import Seconds
from probe.analyzers.parts import loader_intervals
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.steps import within
from probe.units import format_fraction, format_time

TINY_S = 10e-6  # a kernel shorter than this is about as long as its launch
MANY = 500  # of them per step
IDLE_FRACTION = 0.15  # of the step
STARVED_FRACTION = 0.05  # of the step
SYNCHRONOUS = "_SingleProcessDataLoaderIter"


def many_tiny(context: Context) -> Iterator[Match]:
    """H01: hundreds of kernels, or on a CPU operators, that cost more to start than to run.

    Those in `context.claimed` belong to other findings, and with them their part of the overhead.
    """
    rows = _overhead_rows(context)
    free = [row for row in rows if row not in context.claimed]
    overhead_s = context.parts["overhead"] * (len(free) / len(rows) if rows else 1.0)
    durations, what, limit_s = _tiny(context, free)
    count = len(durations) / len(context.steps)
    if overhead_s < IDLE_FRACTION * context.step_s or count < MANY or float(np.median(durations)) > limit_s:
        return
    on_device = context.trace.on_device
    yield Match(
        rows=tuple(free),
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


def _overhead_rows(context: Context) -> list[int]:
    """The operators of the steps whose time is overhead."""
    bounds = context.groups.of_calls(context.bounds)
    inside = context.groups.step_of_op >= 0
    rows: list[int] = np.flatnonzero((bounds == "overhead") & inside & (context.trace.host_ops.self_ns > 0)).tolist()
    return rows


def _tiny(context: Context, rows: list[int]) -> tuple[Seconds, str, float]:
    """What is counted, in seconds, its name, and how long one may be to be tiny."""
    if context.trace.on_device:
        return context.trace.kernels.duration_ns / 1e9, "kernels", TINY_S
    return context.trace.host_ops.self_ns[rows] / 1e9, "operators", DISPATCHES * context.machine.dispatch_s


def _largest(context: Context, rows: list[int], most: int = 5) -> tuple[int, ...]:
    """The groups with most of the given operators."""
    counts = np.bincount(context.groups.of_op[rows], minlength=1) if rows else np.zeros(1, np.int64)
    return tuple(int(g) for g in np.argsort(-counts)[:most] if counts[g])


def starved(context: Context) -> Iterator[Match]:
    """H07: the loop waits for data for 5 % of the step or more, and the device for the loop."""
    waited_s = _waited(context)
    if waited_s < STARVED_FRACTION * context.step_s:
        return
    workers = not _synchronous(context)
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"the step waits {format_time(waited_s)} for its data, {format_fraction(waited_s / context.step_s)} of "
            f"{format_time(context.step_s)}"
        ),
        evidence=(
            f"{format_time(waited_s)} per step in the data loader while nothing else runs",
            "the loader has worker processes" if workers else "the loader has no worker process",
        ),
        saving_s=waited_s,
        where="the data loader",
        replacement="more workers and prefetching" if workers else "worker processes",
        how=(
            "DataLoader(…, num_workers=MORE, prefetch_factor=4, persistent_workers=True)"
            if workers
            else "DataLoader(…, num_workers=4, prefetch_factor=4, persistent_workers=True)"
        ),
    )


def synchronous(context: Context) -> Iterator[Match]:
    """H08: a starving loader without workers: loading and computing take turns. The time is H07's."""
    if not _synchronous(context) or _waited(context) < STARVED_FRACTION * context.step_s:
        return
    yield Match(
        rows=(),
        ops=(),
        summary="the data loader has no workers: each batch is loaded in the training process while nothing else runs",
        evidence=(f"{SYNCHRONOUS} in the trace",),
        saving_s=None,
        where="the data loader",
        replacement="worker processes",
        how="DataLoader(…, num_workers=4, persistent_workers=True)",
    )


def _waited(context: Context) -> float:
    """Wait for data per step: as the loader's marks show it, else as the session measured it."""
    marked = within(loader_intervals(context.trace), context.steps).length_ns / 1e9 / len(context.steps)
    waited = marked or context.data_wait_s or 0.0
    return min(waited, context.parts["host"]) if context.trace.on_device else waited


def _synchronous(context: Context) -> bool:
    return any(SYNCHRONOUS in name for name in context.trace.names)


RULES = (
    Rule(
        "H01", "tiny-operators", "more time to start operators than to run them", many_tiny,
        trigger="500 kernels or operators per step, most no longer than their dispatch, 15 % of the step",
        advice="run them as one graph, or as fewer, larger operators",
        saving="the overhead part of the step",
        cannot_show="which of them depend on values that a graph would have to fix",
        proof="module", effort="flag", about="host", needs=(),
        example=Example("loss = step(batch)", 'step = torch.compile(step, mode="reduce-overhead")'),
    ),
    Rule(
        "H07", "loader-starvation", "the step waits for data", starved,
        trigger="5 % of the step or more inside the data loader's next()",
        advice="load in worker processes, ahead of time",
        saving="the wait",
        cannot_show="whether the storage or the machine's cores can deliver more",
        proof="flag", effort="flag", about="host", shares=True,
        example=Example("DataLoader(data, 32)", "DataLoader(data, 32, num_workers=4, persistent_workers=True)"),
    ),
    Rule(
        "H08", "synchronous-loader", "the data loader has no workers", synchronous,
        trigger="H07, and torch's single-process loader in the trace",
        advice="num_workers > 0",
        saving="that of H07",
        cannot_show="the cost of a batch apart from waiting for it",
        proof="flag", effort="flag", about="host", shares=True,
        example=Example("DataLoader(data, 32)", "DataLoader(data, 32, num_workers=4)"),
    ),
)  # fmt: skip
