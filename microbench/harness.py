"""How is anything timed here? Many short windows, variants in turn, until the median is known or the time is spent.

A window is a function that does a known amount of work and returns how long it took, in seconds. Windows are short
(about half a millisecond where the work allows), so that a busy machine disturbs some of them and not all; the variants
of one question are interleaved (A B A B …), so that a change of clock or of neighbours meets all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from probe.microbench import neighbours
from probe.stats import Summary, fewest_for_interval, summarise

Item = TypeVar("Item")
Clock = Callable[[], float]  # seconds, monotonic
Window = Callable[[], float]  # runs once, returns seconds
clock: Clock = time.perf_counter

WINDOW_S = 0.5e-3  # aimed at: below the 1 ms after which a time slice is likely to be taken away
TARGET_FRACTION = 0.01  # half width of the median's interval at which a variant is known well enough
LEAST_SPAN_S = 0.1  # what disturbs a machine comes and goes within tenths of a second
LEAST_WINDOWS = 8  # below 6 windows no order statistic gives a 95 % interval
MOST_WINDOWS = 2000
GRACE_S = 0.05  # beyond twice the budget, for the least number of windows where preparing took all of it


@dataclass(frozen=True)
class Variant:
    """One way of doing the work: `window` runs it, `work` says how much one window does (bytes, hops, flops, calls)."""

    name: str
    window: Window
    work: float


@dataclass(frozen=True)
class Effort:
    """How long to measure one group of variants: until each median is within `target`, or `budget_s` is spent."""

    budget_s: float
    target: float = TARGET_FRACTION
    least: int = LEAST_WINDOWS
    most: int = MOST_WINDOWS


@dataclass(frozen=True)
class Timing:
    """One variant's result: seconds per unit of work, best and as one gets it."""

    name: str
    seconds: Summary  # per unit of work
    samples: tuple[float, ...] = ()  # seconds per unit of work of each window, in the order they ran
    disturbed: bool = False  # other processes took CPU time meanwhile

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader must know about how it was measured.

        From fewer windows than an interval needs nobody can tell whether they were disturbed: "few-windows".
        """
        contended = ("contended",) if self.seconds.contended or self.disturbed else ()
        return contended + (("few-windows",) if self.seconds.n < fewest_for_interval() else ())


def measure(variants: Sequence[Variant], effort: Effort, clock: Clock = clock, *, on_host: bool = True) -> list[Timing]:
    """Time the variants in turn; one unrecorded round first. What neighbours take of the CPUs matters `on_host` only.

    For `effort.least` windows each the budget may be doubled, no further; a window longer than that still runs once.
    Medians that are known at once are still watched for a tenth of a second, or half the budget where that is less.
    """
    others = neighbours.Neighbours()
    start = clock()
    for variant in variants:
        variant.window()
    samples: list[list[float]] = [[] for _ in variants]
    check_at = effort.least
    budget_s = max(0.0, effort.budget_s)  # preparing may have taken more than all of it
    span_s = min(LEAST_SPAN_S, budget_s / 2)
    while True:
        for variant, seconds in zip(variants, samples, strict=True):
            seconds.append(variant.window() / variant.work)
        n, spent = len(samples[0]), clock() - start
        allowed_s = budget_s if n >= effort.least else 2 * budget_s + GRACE_S
        if n >= effort.most or spent >= allowed_s:
            break
        if n >= check_at:
            if spent >= span_s and all(_settled(seconds, effort.target) for seconds in samples):
                break
            check_at = n + max(4, n // 4)
    disturbed = on_host and clock is time.perf_counter and others.disturbed
    return [
        Timing(variant.name, summarise(seconds), tuple(seconds), disturbed)
        for variant, seconds in zip(variants, samples, strict=True)
    ]


def _settled(samples: list[float], target: float) -> bool:
    """Whether the median's 95 % interval lies within `target` of the median on both sides."""
    summary = summarise(samples)
    low, high = summary.interval
    return max(high - summary.median, summary.median - low) <= target * summary.median


def timed(call: Callable[[], object], clock: Clock = clock) -> Window:
    """A window that runs `call` once on the host's clock."""

    def window() -> float:
        start = clock()
        call()
        return clock() - start

    return window


def repeats_for(window_of: Callable[[int], float], window_s: float = WINDOW_S) -> int:
    """How often to repeat something within one window so that it takes about `window_s`; at least once.

    `window_of(n)` repeats it n times and returns the seconds that took; the least of three, because the first meets
    cold caches and any may be disturbed.
    """
    repeats = 1
    while True:
        seconds = window_of(repeats)
        if seconds < 20 * window_s:
            seconds = min(seconds, window_of(repeats), window_of(repeats))
        if seconds >= window_s / 8 or repeats >= 1 << 40:
            return max(1, round(repeats * window_s / seconds)) if seconds > 0 else repeats
        repeats *= 4


def paced(
    items: Sequence[Item],
    budget_s: float,
    clock: Clock = clock,
    report: Callable[[float], None] = lambda fraction: None,
) -> Iterator[tuple[Item, float]]:
    """Each item with an equal share of what is left of the budget; `report` gets the fraction of items done.

    Put the items that take long to prepare first: what they overdraw is then taken from the others, not added.
    """
    neighbours.note()
    start = clock()
    for done, item in enumerate(items):
        report(done / len(items))
        left = budget_s - (clock() - start)
        yield item, max(0.0, left / (len(items) - done))
    report(1.0)
