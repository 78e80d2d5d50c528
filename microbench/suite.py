"""What is a suite, what does it get, and how does a timing become a measurement of the schema?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.machine.device import Device, DeviceKind
from probe.microbench.harness import Clock, Timing
from probe.results.measurement import Measurement


def _unreported(fraction: float) -> None:
    """Nobody watches the progress."""


@dataclass
class Context:
    """What a suite gets: the device, its time, and where to leave warnings.

    `budget_s` is the time the suite should take; `index` the CUDA device's number (None on a CPU); `path` the directory
    whose storage is measured (None: the current one).
    """

    device: Device
    budget_s: float
    quick: bool = False
    index: int | None = None
    path: Path | None = None
    clock: Clock = time.perf_counter
    report: Callable[[float], None] = _unreported
    warnings: list[str] = field(default_factory=list)


Run = Callable[[Context], Iterator[Measurement]]


@dataclass(frozen=True)
class Answer:
    """What measures the answer on one kind of device, and the seconds it should take: in a quick run, in a full one."""

    run: Run
    quick_s: float
    full_s: float


@dataclass(frozen=True)
class Suite:
    """One question, and what answers it on each kind of device."""

    name: str
    question: str
    answers: Mapping[DeviceKind, Answer]


def time_measurement(
    suite: str, name: str, metric: str, timing: Timing, params: dict[str, Any], **more: Any
) -> Measurement:
    """A duration in seconds; the best is the shortest."""
    seconds = timing.seconds
    return Measurement(
        suite=suite,
        name=name,
        metric=metric,
        unit="s",
        value=seconds.min,
        min=seconds.min,
        median=seconds.median,
        interval=seconds.interval,
        n=seconds.n,
        params=params,
        flags=timing.flags + tuple(more.pop("flags", ())),
        samples=tuple(_rounded(s) for s in timing.samples),
        **more,
    )


def _rounded(sample: float) -> float:
    """A raw sample to the digits that a clock can tell."""
    return float(f"{sample:.5g}")


def rate_measurement(
    suite: str, name: str, metric: str, unit: str, timing: Timing, params: dict[str, Any], **more: Any
) -> Measurement:
    """Work per second; `value` is the best (highest) window, `min` the worst."""
    seconds = timing.seconds
    low, high = seconds.interval
    return Measurement(
        suite=suite,
        name=name,
        metric=metric,
        unit=unit,
        value=1 / seconds.min,
        min=1 / seconds.max,
        median=1 / seconds.median,
        interval=(1 / high, 1 / low),
        n=seconds.n,
        params=params,
        flags=timing.flags + tuple(more.pop("flags", ())),
        samples=tuple(_rounded(1 / s) for s in timing.samples),
        **more,
    )
