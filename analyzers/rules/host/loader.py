"""H07, H08: the step waits for its data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.host.gaps import host_time
from probe.analyzers.rules.matching.claims import free
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.timeline.threads import loader_intervals
from probe.intervals import length_before
from probe.units import format_fraction, format_time

STARVED_FRACTION = 0.05  # of the step
SYNCHRONOUS = "_SingleProcessDataLoaderIter"
MARK = "enumerate(DataLoader)"


def starved(context: Context) -> Iterator[Match]:
    """H07: the loop waits for data for 5 % of the step or more, and the device for the loop."""
    waited_s = _waited(context)
    if waited_s < STARVED_FRACTION * context.step_s:
        return
    yield Match(
        rows=free(context, _loading(context)),
        ops=(),
        summary=(
            f"the step waits {format_time(waited_s)} for its data, {format_fraction(waited_s / context.step_s)} of "
            f"{format_time(context.step_s)}"
        ),
        evidence=(f"{format_time(waited_s)} per step in {_source(context)} while nothing else runs",),
        saving_s=waited_s,
        where=_source(context),
        replacement="worker processes" if not _has_workers(context) else "more workers and prefetching",
        how=(
            "DataLoader(…, num_workers=MORE, prefetch_factor=4, persistent_workers=True)"
            if _has_workers(context)
            else "DataLoader(…, num_workers=4, prefetch_factor=4, persistent_workers=True)"
        ),
    )


def _loading(context: Context) -> list[int]:
    """Operators with which a loader without workers makes batches: no other rule need look at them."""
    ops, waits = context.trace.host_ops, loader_intervals(context.trace)
    inside = length_before(waits, ops.end_ns) - length_before(waits, ops.start_ns) == ops.end_ns - ops.start_ns
    rows: list[int] = np.flatnonzero(inside & (context.groups.step_of_op >= 0)).tolist()
    return rows


def synchronous(context: Context) -> Iterator[Match]:
    """H08: a starving loader without workers: loading and computing take turns. The time is H07's."""
    if not _synchronous(context) or _waited(context) < STARVED_FRACTION * context.step_s:
        return
    yield Match(
        rows=(),
        ops=(),
        summary="the data loader has no workers: each batch is loaded in the training process while nothing else runs",
        evidence=(f"{SYNCHRONOUS} in the trace", "H07 counts the time that is waited"),
        saving_s=None,
        where="the data loader",
        replacement="worker processes",
        how="DataLoader(…, num_workers=4, persistent_workers=True)",
    )


def _waited(context: Context) -> float:
    """Wait for data per step: as the loader's marks show it, else as the session measured it.

    The session measures the step's own batches, in which operators may run: no more than the step can be saved.
    """
    time = host_time(context)
    if len(time.loading):
        return time.bare_s(time.loading.length_ns / 1e9 / len(context.steps))
    measured_s = min(context.data_wait_s or 0.0, context.step_s)
    return min(measured_s, context.parts["host"]) if context.trace.on_device else measured_s


def _source(context: Context) -> str:
    """Where the data comes from, as far as the trace tells."""
    if any(name.startswith(MARK) for name in context.trace.names):
        return "a data loader without workers" if _synchronous(context) else "a data loader with workers"
    return "the iterable that prof.batches() goes through"


def _synchronous(context: Context) -> bool:
    return any(SYNCHRONOUS in name for name in context.trace.names)


def _has_workers(context: Context) -> bool:
    return any(name.startswith(MARK) for name in context.trace.names) and not _synchronous(context)


RULES = (
    Rule(
        "H07", "loader-starvation", "the step waits for data", starved,
        trigger="5 % of the step or more inside the data loader's next(), while the device has nothing to do",
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
