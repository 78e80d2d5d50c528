"""H11: launches that block because the device has enough to do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.operators.steps import step_of
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Rule
from probe.analyzers.timeline.device import device_busy
from probe.intervals import length_before
from probe.units import format_time

LONG_LAUNCH = 10.0  # times the median launch call
LONG_LAUNCH_NS = 50_000
BLOCKED_FRACTION = 0.15  # of the step
BUSY_FRACTION = 0.9  # of the time in which launches block


def full_queue(context: Context) -> Iterator[Match]:
    """H11: launches that block because the device has enough to do: the host is ahead, nothing is lost."""
    blocked_s = _blocked_s(context)
    if blocked_s < BLOCKED_FRACTION * context.step_s:
        return
    yield Match(
        rows=(),
        ops=(),
        summary=(
            f"launch calls block for {format_time(blocked_s)} per step because the device's queue is full: the host is "
            "ahead, and its time does not matter"
        ),
        evidence=("the device is busy while they block",),
        saving_s=None,
        where="kernel launches",
        replacement=None,
        how=None,
    )


def queue_is_full(context: Context) -> bool:
    """Whether the device cannot take what the host launches, so that the host's own time does not matter."""
    return context.trace.on_device and _blocked_s(context) >= BLOCKED_FRACTION * context.step_s


def _blocked_s(context: Context) -> float:
    """Seconds per step of launch calls that take far longer than usual while the device is busy."""
    calls = context.trace.runtime_calls
    launches = np.flatnonzero(context.trace.named(lambda name: "Launch" in name)[calls.name])
    launches = launches[step_of(context.steps, calls.start_ns[launches]) >= 0]
    if not len(launches):
        return 0.0
    took = (calls.end_ns - calls.start_ns)[launches]
    long = launches[took > max(LONG_LAUNCH * float(np.median(took)), LONG_LAUNCH_NS)]
    busy = device_busy(context.trace)
    covered = length_before(busy, calls.end_ns[long]) - length_before(busy, calls.start_ns[long])
    took = (calls.end_ns - calls.start_ns)[long]
    return float(took[covered >= BUSY_FRACTION * took].sum()) / 1e9 / len(context.steps)


RULES = (
    Rule(
        "H11", "launch-queue-full", "the launch queue is full", full_queue,
        trigger="launch calls that take ten times the usual for 15 % of the step while the device is busy",
        advice="nothing to do: look at the device's work, not at the host's",
        saving="none: findings about the host's time are left out",
        cannot_show="how long the queue is",
        proof="arithmetic", effort="flag", about="host", shares=True, needs=("launches",),
        example=None,
    ),
)  # fmt: skip
